/* A program and, with LIBRARY, a library with versions of symbols. */
#ifdef LIBRARY
int seed(int x) { return x + 1; }
#else
int seed(int);
int main(int argc, char **argv) { return seed(argc + !argv); }
#endif
