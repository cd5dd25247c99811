package svlogd

// match tells whether pattern matches all of line, as runit does it: byte by byte, without going back.
//
//   - at the end: anything. Before a byte: all up to that byte's first occurrence (which the byte then matches)
//     +X  X once or more; where the line ends with that it matches, whatever follows in the pattern
//     X   itself
func match(pattern string, line []byte) bool {
	for pattern != "" {
		c := pattern[0]
		pattern = pattern[1:]
		switch c {
		case '*':
			if pattern == "" {
				return true
			}
			for len(line) > 0 && line[0] != pattern[0] {
				line = line[1:]
			}
			if len(line) == 0 {
				return false
			}
		case '+':
			if pattern == "" {
				return len(line) == 0
			}
			c, pattern = pattern[0], pattern[1:]
			if len(line) == 0 || line[0] != c {
				return false
			}
			for len(line) > 0 && line[0] == c {
				line = line[1:]
			}
			if len(line) == 0 {
				return true
			}
		default:
			if len(line) == 0 || line[0] != c {
				return false
			}
			line = line[1:]
		}
	}
	return len(line) == 0
}
