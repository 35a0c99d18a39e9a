package child

import (
	"errors"
	"fmt"
	"time"

	"github.com/raftmux/raftmux/bench/internal/arm"
	"github.com/raftmux/raftmux/bench/internal/groups"
)

// GroupsArgs are Groups'.
type GroupsArgs struct {
	Arm  string
	Plan groups.Plan
	// Settle is how long clients write before the outcome begins, and Duration how
	// long that takes.
	Settle, Duration time.Duration
}

// Groups runs real Raft groups on three stores in this process.
func (*Half) Groups(args GroupsArgs, outcome *groups.Outcome) error {
	a, err := arm.Find(args.Arm)
	if err != nil {
		return err
	}
	if a.Groups == nil {
		return fmt.Errorf("child: %s carries no messages of several groups", args.Arm)
	}
	cluster, err := groups.New(args.Plan, a.Groups)
	if err != nil {
		return err
	}
	*outcome, err = cluster.Run(args.Settle, args.Duration)
	return errors.Join(err, cluster.Close())
}
