#!/usr/bin/env bash
# The main job, live: an external IP that an outside router can arp and curl,
# and that outlives the node that announces it. Run it with `make demo`, or with
# `make demo-kube` on a real Kubernetes control plane and through kubectl.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH="$PWD/bin:$PATH"
manifests=$PWD/deploy/demo/manifests
plane=${CONTROL_PLANE:-etcd}
started=$SECONDS
work=$(mktemp -d)
failures=0

if [ -t 1 ]; then bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' green=$'\e[32m' off=$'\e[0m'; else bold='' dim='' red='' green='' off=''; fi

finish() {
	code=$?
	rm -rf "$work"
	[ "$code" = 0 ] || echo "${red}demo: failed (exit $code); logs are in /run/testlab/sm/log${off}" >&2
	if [ -n "${CI:-}" ]; then testlab down --name sm || true; fi
	exit "$code"
}
trap finish EXIT

step() { printf '\n%s── %s%s\n' "$bold" "$*" "$off"; }
say() { printf '%s%s%s\n' "$dim" "$*" "$off"; }
# run shows a command, then does it.
run() {
	printf '%s$ %s%s\n' "$bold" "$*" "$off"
	"$@"
}
# on HOST CMD… is testlab exec.
on() {
	local host=$1
	shift
	testlab exec "$host" -- "$@"
}
# until_true SECONDS WHAT CMD… waits for the command to succeed.
until_true() {
	local deadline=$((SECONDS + $1)) what=$2
	shift 2
	until "$@" >/dev/null 2>&1; do
		if [ $SECONDS -ge $deadline ]; then
			echo "${red}timed out waiting for $what: $*${off}" >&2
			return 1
		fi
		sleep 0.1
	done
}
# check NAME RESULT CONDITION… records a row of the summary.
check() {
	local name=$1 result=$2
	shift 2
	if "$@"; then
		printf '%s|%s|ok\n' "$name" "$result" >>"$work/summary"
	else
		printf '%s|%s|FAILED\n' "$name" "$result" >>"$work/summary"
		failures=$((failures + 1))
	fi
}
holder() { on k8s-"$1" seamark get announcement "$vip" -o json 2>/dev/null | sed -n 's/.*"node": *"\([^"]*\)".*/\1/p' | head -n 1; }
announced() { [ -n "$(holder ctr)" ]; }
taken_over() {
	local now
	now=$(holder "$survivor")
	[ -n "$now" ] && [ "$now" != "$old" ]
}

step "A lab: router, three nodes (k8s-w0 behind the router), a pod on each, a daemon on each"
testlab down --name sm >/dev/null 2>&1 || true
run testlab up --name sm $([ "$plane" = etcd ] || echo "--control-plane $plane")

step "1. A pool, a policy, a Service of type LoadBalancer"
if [ "$plane" = kube ]; then
	run testlab kubectl -- apply -f "$manifests"
else
	run testlab exec k8s-ctr -- seamark apply -f "$manifests"
fi
vip=192.168.10.211
until_true 15 "the Service's address" on k8s-ctr sh -c "seamark get service webpod | grep -qw $vip"
until_true 15 "its announcement" announced
until_true 15 "an answer" on router curl -sf -m 1 "http://$vip/"
if [ "$plane" = kube ]; then
	run testlab kubectl -- get services,endpointslices
	run testlab kubectl -- get ippools.seamark.dev
	run testlab kubectl -- get events --field-selector involvedObject.name=webpod
else
	run testlab exec k8s-ctr -- seamark get service
	run testlab exec k8s-ctr -- seamark get ippool
fi
run testlab exec k8s-ctr -- seamark get announcement
available=$(on k8s-ctr seamark get ippool lab -o json | sed -n 's/.*"available": *"\([0-9]*\)".*/\1/p' | head -n 1)
check "Service has an address from the pool" "$vip, $available of 5 left" [ "$available" = 4 ]

step "2. The router asks who has it: one node answers"
run testlab exec router -- arping -c 4 -I eth1 "$vip" | tee "$work/arping"
macs=$(grep -oiE '([0-9a-f]{2}:){5}[0-9a-f]{2}' "$work/arping" | tr a-f A-F | sort -u | wc -l)
check "nodes that answer ARP for it" "$macs" [ "$macs" = 1 ]

step "3. The router asks for the page thirty times: Maglev spreads, DSR answers"
say "\$ testlab exec router -- sh -c 'for i in \$(seq 30); do curl -s http://$vip/; done' | grep Hostname | sort | uniq -c"
on router sh -c "for i in \$(seq 30); do curl -s -m 2 http://$vip/; done" >"$work/curl"
grep Hostname "$work/curl" | sort | uniq -c | tee "$work/spread"
pods=$(wc -l <"$work/spread")
answers=$(awk '{n += $1} END {print n + 0}' "$work/spread")
check "30 requests answered" "$answers, by $pods pods" [ "$answers$pods" = 303 ]
say "and the pod sees the router itself as its client:"
grep RemoteAddr "$work/curl" | sed 's/:[0-9]*$//' | sort | uniq -c | tee "$work/clients"
check "client address that pods see" "$(awk '{print $3}' "$work/clients" | xargs)" [ "$(awk '{print $3}' "$work/clients")" = 192.168.10.200 ]

step "4. The announcing node dies: daemon SIGKILLed, its links cut"
old=$(holder ctr)
survivor=ctr
[ "$old" != k8s-ctr ] || survivor=w1
dead_pod=$(testlab status --name sm | sed -n "s/^\(webpod[^ ]*\) *pod on $old .*/\1/p")
say "$old announces $vip. Sixty connections stream through it, the router pings it and asks for it by ARP, all the while."
on router testlab streams "$vip:80" --count 60 --interval 50ms --duration 11s >"$work/streams" 2>"$work/open" &
streams=$!
on router testlab arpwatch eth1 "$vip" --duration 11s >"$work/arpwatch" &
arpwatch=$!
on router ping -q -i 0.01 -w 11 "$vip" >"$work/ping" &
ping=$!
until_true 5 "the connections to open" grep -q open "$work/open"
run testlab power-off "$old"
until_true 20 "another node to take over" taken_over
run testlab exec "k8s-$survivor" -- seamark get announcement -o wide
wait "$streams" "$arpwatch" "$ping"
run testlab exec router -- arping -c 2 -I eth1 "$vip"
say "the connections, by the pod they are to ($dead_pod went down with its node):"
cat "$work/streams"
say "the ARP questions:"
cat "$work/arpwatch"
say "the pings:"
grep transmitted "$work/ping"
new=$(holder "$survivor")
check "another node took over" "$old → $new" [ -n "$new" -a "$new" != "$old" ]
survivors=$(grep -v "^$dead_pod:" "$work/streams" | awk '{n += $2; b += $4} END {print n + 0, b + 0}')
check "connections to pods that live on: broken" "${survivors#* } of ${survivors% *}" [ "${survivors#* }" = 0 -a "${survivors% *}" -gt 0 ]
check "answered by two nodes at once" "$(sed -n 's/.* \([0-9]*\) answered by two.*/\1/p' "$work/arpwatch") times" grep -q ' 0 answered by two' "$work/arpwatch"
check "outage: nobody answered ARP for" "$(sed -n 's/.*longest silence //p' "$work/arpwatch")" grep -q 'longest silence' "$work/arpwatch"
check "outage: pings lost for" "$(awk '/transmitted/ {gsub("ms", "", $NF); printf "%d ms", ($1 - $4) * $NF / $1}' "$work/ping")" grep -q transmitted "$work/ping"

step "Summary"
column -t -s '|' "$work/summary" 2>/dev/null || cat "$work/summary"
printf '\n%s s in all\n' $((SECONDS - started))
if [ "$failures" != 0 ]; then exit 1; fi
if [ -z "${CI:-}" ]; then
	cat <<TXT

${green}The lab is yours.${off} It stays up until \`make demo-down\`:
  bin/testlab exec router -- curl http://$vip/
  bin/testlab exec k8s-$survivor -- seamark status
  bin/testlab exec k8s-$survivor -- seamark bpf lb list
  bin/testlab power-on $old
TXT
fi
