// Package supervise is what runsv does, for as many services in one process as there are: it keeps ./run running, starts ./finish
// after it, does what is written to the control FIFOs, and keeps the files of supervise/ true.
//
// A Machine decides and a Service acts. The machine is a table: for each phase of a service and each kind of event one row; it
// knows neither processes nor files nor clocks. A service and its log are two machines under the same rules, joined by a pipe.
//
// Everything happens on one poll.Loop: FIFOs are read there, and the reaper's news, timers and control scripts are events on it.
// No service has a goroutine or thread of its own, and nothing polls. While a control script of a service runs, what happens to
// that service is put off, in order, as in runsv, which waits for the script; others go on.
package supervise
