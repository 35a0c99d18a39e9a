//go:build mutant_c2

package mutant

// Active is the clause that is broken.
const Active = C2
