//go:build mutant_c21

package mutant

// Active is the clause that is broken.
const Active = C21
