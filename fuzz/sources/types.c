/* What a kernel's BTF has, by the same names. */
struct list { struct list *next, *prev; };
struct mutex { long owner; struct list waiting; };
struct file_operations { int (*open)(int, void *); long (*read)(void *, unsigned long); };
union any { int number; float fraction; };
enum state { LIVE, COMING, GOING };
struct inode { unsigned short mode; unsigned int flag : 3, other : 5; const struct file_operations *fop; };
struct module { enum state state; char name[56]; union { int a; union any b; }; struct mutex lock; void (*init)(void); };
struct module one;
struct inode two;
volatile unsigned long long three;
