//go:build mutant_c23

package mutant

// Active is the clause that is broken.
const Active = C23
