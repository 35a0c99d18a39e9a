package faults_test

import (
	"errors"
	"fmt"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/faults"
)

func Example() {
	rules := faults.New(faults.Options{Seed: 1})
	defer rules.Close()
	if err := rules.Set("partition 1,2|3", "drop 10% MsgAppend region=7 to=2 for=30s"); err != nil {
		panic(err)
	}
	// As raftmux.ClientOptions.Filter it is asked about every message.
	for to := uint64(2); to <= 3; to++ {
		fmt.Println("from 1 to", to, "passes:", rules.Pass(raftmux.Envelope{FromStoreID: 1, ToStoreID: to}))
	}
	for _, active := range rules.List() {
		fmt.Println(active.Rule, "| hit", active.Hit)
	}
	rules.Clear()
	// Output:
	// from 1 to 2 passes: true
	// from 1 to 3 passes: false
	// partition 1,2|3 | hit 1
	// drop 10% MsgAppend region=7 to=2 for=30s | hit 0
}

func ExampleParse() {
	_, err := faults.Parse("drop 10% MsgAppend region=seven")
	fmt.Println(err)
	var wrong *faults.ParseError
	if errors.As(err, &wrong) {
		fmt.Println(wrong.Text)
		fmt.Printf("%*s expected %s\n", wrong.Offset+1, "^", wrong.Expected)
	}
	// Output:
	// faults: rule "drop 10% MsgAppend region=seven", column 27: found "seven", expected a region id
	// drop 10% MsgAppend region=seven
	//                           ^ expected a region id
}
