//go:build mutant_c15

package mutant

// Active is the clause that is broken.
const Active = C15
