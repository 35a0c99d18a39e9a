//go:build mutant_c1

package mutant

// Active is the clause that is broken.
const Active = C1
