//go:build mutant_c7

package mutant

// Active is the clause that is broken.
const Active = C7
