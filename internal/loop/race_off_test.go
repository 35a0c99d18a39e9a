//go:build !race

package loop

// raceDetector says that everything takes several times as long.
const raceDetector = false
