// Command bench measures raftmux side by side with its peers: two processes over
// loopback for each transport, the same messages, in turns. See README.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/raftmux/raftmux/bench/internal/arm"
	"github.com/raftmux/raftmux/bench/internal/child"
	"github.com/raftmux/raftmux/bench/internal/load"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == childFlag {
		// An interrupt is for the parent, which then ends its children.
		signal.Ignore(os.Interrupt)
		exitOn(child.Run(pipe{os.Stdin, os.Stdout}))
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	exitOn(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func exitOn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run is the whole command. It writes the tables to out and how it goes to progress.
func run(ctx context.Context, args []string, out, progress io.Writer) error {
	settings, folder, err := parse(args, progress)
	if err != nil {
		return err
	}
	for _, dir := range []string{folder, settings.Profiles} {
		if dir == "" {
			continue
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	began := time.Now()
	b := &bench{ctx: ctx, settings: settings, results: newResults(), progress: progress}
	if err := b.run(); err != nil { // what was measured until then is of use
		b.results.Failures = append(b.results.Failures, err.Error())
	}
	report := newReport(settings, b.results, began)
	if _, err := io.WriteString(out, report.markdown()); err != nil {
		return err
	}
	if err := report.write(folder); err != nil {
		return err
	}
	if n := len(b.results.Failures); n > 0 {
		return fmt.Errorf("%d failures, which the report names", n)
	}
	return nil
}

// quickBurst and quickRounds are a smoke test.
const (
	quickBurst  = 30 * time.Millisecond
	quickRounds = 1
)

// parse reads the flags.
func parse(args []string, usage io.Writer) (settings Settings, folder string, err error) {
	groups := allGroups()
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(usage)
	quick := flags.Bool("quick", false, "a smoke test of under a minute, whose figures mean nothing")
	rounds := flags.Int("rounds", 15, "how often each transport is measured, in turns")
	burst := flags.Duration("burst", 350*time.Millisecond, "how long each measurement takes")
	workers := flags.Int("workers", 2, "sending goroutines")
	groupList := flags.String("groups", strings.Join(groups, ","), "what to measure")
	shapeList := flags.String("shapes", strings.Join(load.Shapes(), ","), "which messages")
	armList := flags.String("transports", strings.Join(mainArms(), ","), "which transports, where a group has several")
	out := flags.String("out", filepath.Join(os.TempDir(), "raftmux-bench"), "folder for the tables, the figures and the chart")
	profiles := flags.String("cpuprofile", "", "folder for CPU profiles of both processes, by transport and shape")
	if err := flags.Parse(args); err != nil {
		return Settings{}, "", err
	}
	switch {
	case flags.NArg() > 0:
		return Settings{}, "", fmt.Errorf("%q is no flag", flags.Arg(0))
	case *rounds < 1 || *burst <= 0 || *workers < 1:
		return Settings{}, "", errors.New("rounds, burst and workers must be above zero")
	}
	settings = Settings{
		Groups: split(*groupList), Shapes: split(*shapeList), Transports: split(*armList),
		Rounds: *rounds, Burst: *burst, Workers: *workers, Profiles: *profiles,
	}
	if *quick {
		settings.Rounds, settings.Burst = quickRounds, quickBurst
	}
	for _, check := range []struct{ given, known []string }{
		{settings.Groups, groups},
		{settings.Shapes, load.Shapes()},
		{settings.Transports, mainArms()},
	} {
		for _, name := range check.given {
			if !slices.Contains(check.known, name) {
				return Settings{}, "", fmt.Errorf("%q is none of %s", name, strings.Join(check.known, ", "))
			}
		}
	}
	return settings, *out, nil
}

func split(list string) []string {
	var names []string
	for name := range strings.SplitSeq(list, ",") {
		names = append(names, strings.TrimSpace(name))
	}
	return names
}

// mainArms are the transports that are measured by throughput.
func mainArms() []string { return namesOf(arm.All()) }

// allArms are all of them.
func allArms() []string { return append(mainArms(), namesOf(arm.Special())...) }

// latencyArms are the transports whose messages can say when they were sent.
func latencyArms() []string {
	return []string{"raftmux", "raftmux owned", "usual", "tcp", "rafthttp"}
}

func namesOf(arms []arm.Arm) []string {
	var names []string
	for _, a := range arms {
		names = append(names, a.Name)
	}
	return names
}
