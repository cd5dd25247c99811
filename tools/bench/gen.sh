#!/bin/sh
# gen.sh DIR N TINY: a tree of N components that run `TINY term NAME` and are started again whenever they end.
set -eu
dir=$1 n=$2 tiny=$3
awk -v dir="$dir" -v n="$n" -v tiny="$tiny" 'BEGIN {
	root = dir "/root.cml"
	print "{\n\tchildren: [" >root
	for (i = 0; i < n; i++) {
		printf "\t\t{ name: \"c%d\", url: \"c%d.cml\", startup: \"eager\", on_terminate: \"restart\", ", i, i >root
		print "restart: { when: \"always\", delay_ms: 0 } }," >root
		child = dir "/c" i ".cml"
		printf "{ program: { runner: \"elf\", binary: \"%s\", args: [\"term\", \"c%d\"] } }\n", tiny, i >child
		close(child)
	}
	print "\t],\n}" >root
}'
