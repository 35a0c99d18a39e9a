//go:build !(mutant_c1 || mutant_c2 || mutant_c3 || mutant_c4 || mutant_c5 || mutant_c6 || mutant_c7 || mutant_c8 || mutant_c9 || mutant_c10 || mutant_c11 || mutant_c12 || mutant_c13 || mutant_c14 || mutant_c15 || mutant_c16 || mutant_c17 || mutant_c18 || mutant_c19 || mutant_c20 || mutant_c21 || mutant_c22 || mutant_c23 || mutant_c24)

package mutant

// Active is the clause that is broken.
const Active = None
