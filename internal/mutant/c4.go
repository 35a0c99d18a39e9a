//go:build mutant_c4

package mutant

// Active is the clause that is broken.
const Active = C4
