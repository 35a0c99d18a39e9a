//go:build mutant_c12

package mutant

// Active is the clause that is broken.
const Active = C12
