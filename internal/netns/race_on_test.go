//go:build race

package netns

// raceDetector says that everything takes several times as long.
const raceDetector = true
