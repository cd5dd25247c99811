package lifecycle

// IsStop is isStop, for tests.
var IsStop = isStop
