# Runs before every script of a test. `probe NAME COMMAND…` writes a command's output and status to
# the script's own serial port, between marks that the test looks for.
dmesg -n 1
exec >/dev/ttyS1 2>&1
# The port hangs up when this shell ends. All output has to be sent before.
trap 'stty -F /dev/ttyS1 -echo' EXIT
export PATH=/usr/sbin:/usr/bin SYSTEMD_COLORS=0 SYSTEMD_PAGER=
probe() {
	local name=$1 status
	shift
	printf '\n@@begin %s\n' "$name"
	"$@" 2>&1
	status=$?
	printf '\n@@end %s %s\n' "$name" "$status"
}
printf '\n@@uptime %s\n' "$(cut -d' ' -f1 /proc/uptime)"
