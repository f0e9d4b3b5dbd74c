// Package spelling finds the word that somebody meant.
package spelling

import "strings"

// Nearest returns the word among known that takes the fewest edits to make of
// name, whatever the case; of several, the first. "" when each takes more than most.
func Nearest(name string, known []string, most int) string {
	best, bestDistance := "", most+1
	name = strings.ToLower(name)
	for _, k := range known {
		if d := len(k) - len(name); max(d, -d) >= bestDistance {
			continue // so many edits at least
		}
		if d := editDistance(name, strings.ToLower(k)); d < bestDistance {
			best, bestDistance = k, d
		}
	}
	return best
}

// editDistance is Levenshtein's.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
