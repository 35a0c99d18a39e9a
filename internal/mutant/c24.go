//go:build mutant_c24

package mutant

// Active is the clause that is broken.
const Active = C24
