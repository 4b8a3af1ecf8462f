package main

import (
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"salsa.debian.org/cloud-team/debcloud/jobs/publish/aws/awstest"
)

// TestAWSScripts runs the program against a double of AWS of its own for each of testdata/aws/*.txtar, at $ENDPOINT.
func TestAWSScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:  "testdata/aws",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits},
		Setup: func(env *testscript.Env) error {
			c := awstest.New(awstest.Settings{Regions: []string{"us-east-1", "eu-west-1"}})
			env.Defer(c.Close)
			env.Setenv("ENDPOINT", c.URL)
			env.Setenv("AWS_ACCESS_KEY_ID", awstest.KeyID)
			env.Setenv("AWS_SECRET_ACCESS_KEY", awstest.Secret)
			env.Setenv("DEBCLOUD_JOURNAL", env.WorkDir+"/journal.db")
			return nil
		},
	})
}
