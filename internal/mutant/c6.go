//go:build mutant_c6

package mutant

// Active is the clause that is broken.
const Active = C6
