package name

import "strings"

// Nearest is the candidate that was probably meant by word, the first of equally near ones; "" if none is near. Near is an edit
// distance (insertions, deletions, substitutions, swaps of neighbours; capitals don't count) of at most two fifths of the
// longer word, or half of it where one is the beginning of the other.
func Nearest(word string, candidates []string) string {
	const longest = 256 // bounds the work; nobody mistypes more than that
	best, bestDistance := "", 0
	w := strings.ToLower(word)
	for _, candidate := range candidates {
		if len(word) > longest || len(candidate) > longest {
			continue
		}
		c := strings.ToLower(candidate)
		limit := max(len(w), len(c)) * 2 / 5
		if len(w) >= 3 && strings.HasPrefix(c, w) || len(c) >= 3 && strings.HasPrefix(w, c) {
			limit = max(len(w), len(c)) / 2
		}
		if max(len(w), len(c))-min(len(w), len(c)) > limit {
			continue
		}
		if d := distance(w, c); d <= limit && (best == "" || d < bestDistance) {
			best, bestDistance = candidate, d
		}
	}
	return best
}

// distance is the optimal string alignment distance in bytes.
func distance(a, b string) int {
	before, prev, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		prev[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(row[j]+1, prev[j+1]+1, prev[j]+cost)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, prev, row = prev, row, before
	}
	return prev[len(b)]
}
