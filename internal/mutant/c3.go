//go:build mutant_c3

package mutant

// Active is the clause that is broken.
const Active = C3
