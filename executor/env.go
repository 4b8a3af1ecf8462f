package executor

import (
	"strconv"
	"strings"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// Environment is what Runner says to its driver by environment variables, read once. What begins with CUSTOM_ENV_ can be
// said by the author of a job just as well: nothing here tells whose the job is.
type Environment struct {
	// BuildFailure and SystemFailure are the exit codes that tell Runner whose fault it was.
	BuildFailure, SystemFailure int
	// ExitCodeFile takes the exit code of a job's script. Empty: Runner does not ask.
	ExitCodeFile string
	// JobResponseFile is the job as GitLab sent it, with its token.
	JobResponseFile string
	// TempDir is Runner's directory of this attempt: the same in all calls, and gone when the attempt is over.
	TempDir string
	// Image is the job's image, its variables expanded. Empty: the job names none.
	Image string
}

// ReadEnvironment reads variables in the form NAME=VALUE (os.Environ). Of several with one name the last counts, as in exec.
func ReadEnvironment(environ []string) (Environment, error) {
	set := make(map[string]string)
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		set[name] = value
	}
	e := Environment{
		ExitCodeFile:    set["BUILD_EXIT_CODE_FILE"],
		JobResponseFile: set["JOB_RESPONSE_FILE"],
		TempDir:         set["TMPDIR"],
		Image:           set["CUSTOM_ENV_CI_JOB_IMAGE"],
	}
	var err error
	if e.BuildFailure, err = exitCode(set, "BUILD_FAILURE_EXIT_CODE", 1); err != nil {
		return e, err
	}
	if e.SystemFailure, err = exitCode(set, "SYSTEM_FAILURE_EXIT_CODE", 2); err != nil {
		return e, err
	}
	if e.TempDir == "" {
		return e, fault.WithHint(fault.Inputf("TMPDIR is not set"), "only GitLab Runner's custom executor calls this command")
	}
	return e, nil
}

func exitCode(set map[string]string, name string, otherwise int) (int, error) {
	text := set[name]
	if text == "" {
		return otherwise, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > 255 {
		return otherwise, fault.Inputf("%s is %q, which is no exit code of a failure", name, text)
	}
	return n, nil
}
