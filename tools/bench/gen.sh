#!/bin/sh
# gen.sh DIR N TINY: a tree of N components that run `TINY term NAME` and are started again whenever they end. With LIFECYCLE=1 in
# the environment each has a lifecycle channel, which TINY does not listen to: good for everything but stopping.
set -eu
dir=$1 n=$2 tiny=$3
awk -v lifecycle="${LIFECYCLE:+, lifecycle: { stop_event: \"notify\" \}}" -v dir="$dir" -v n="$n" -v tiny="$tiny" 'BEGIN {
	root = dir "/root.cml"
	print "{\n\tchildren: [" >root
	for (i = 0; i < n; i++) {
		printf "\t\t{ name: \"c%d\", url: \"c%d.cml\", startup: \"eager\", on_terminate: \"restart\", ", i, i >root
		print "restart: { when: \"always\", delay_ms: 0 } }," >root
		child = dir "/c" i ".cml"
		printf "{ program: { runner: \"elf\", binary: \"%s\", args: [\"term\", \"c%d\"]%s } }\n", tiny, i, lifecycle >child
		close(child)
	}
	print "\t],\n}" >root
}'
