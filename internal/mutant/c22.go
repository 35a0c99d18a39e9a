//go:build mutant_c22

package mutant

// Active is the clause that is broken.
const Active = C22
