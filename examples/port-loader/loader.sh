#!/bin/sh
# A port program: serves the files below $1. One process a request (raw): standard input is "f" and the name of a file.
name=$(tail -c +2)
case /$name/ in */../*) name= ;; esac
if [ -f "$1/$name" ]; then
	printf y
	exec cat "$1/$name"
fi
printf 'zno %s in %s' "$name" "$1"
