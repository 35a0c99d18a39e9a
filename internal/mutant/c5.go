//go:build mutant_c5

package mutant

// Active is the clause that is broken.
const Active = C5
