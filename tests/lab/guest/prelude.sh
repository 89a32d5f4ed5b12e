# Before every script of a test: `probe NAME COMMAND…` puts a command's output and status on a serial
# port of the script's own, between marks that the test finds again.
dmesg -n 1
exec >/dev/ttyS1 2>&1
# The port hangs up when this shell ends: what is still to be sent has to be out then.
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
