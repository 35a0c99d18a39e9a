//go:build mutant_c9

package mutant

// Active is the clause that is broken.
const Active = C9
