// Package servicedir reads and writes what runsv, sv and others share of a service directory: supervise/status, stat, pid, lock,
// control and ok, byte for byte as runit 2.1.2 does (reference: runit.md §1, and runit's runsv.c).
//
// All paths are below a descriptor of the service directory, so a service survives that its directory is renamed, and one process
// can supervise many. The descriptor may be one of O_PATH.
package servicedir
