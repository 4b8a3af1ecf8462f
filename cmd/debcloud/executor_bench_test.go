package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/executor/runnertest"
	"salsa.debian.org/cloud-team/debcloud/executor/tools"
	"salsa.debian.org/cloud-team/debcloud/internal/guest"
)

// BenchmarkExecutor plays jobs and boots the same image without libvirt and driver, by turns. It reports a cold prepare
// in relation to the bare boot (at most 1.1), when the bare boot's agent answers (at most 20 s under TCG) and its system is up, and
// what the other calls take: a stage at most 0.5 s under TCG, cleanup at most 2 s, the driver's own processor time under 0.1 s a
// call.
//
// tiny is the tests' image, whose boot takes so little that the driver's own second shows; runner is the image that jobs get.
func BenchmarkExecutor(b *testing.B) {
	b.Run("tiny", func(b *testing.B) {
		image := testGuest(b)
		bed := runnertest.NewBed(b, runnertest.Options{Image: image})
		benchExecutor(b, newRunner(b, bed), newJob, bareMachine{image: image, cpus: 1, memory: 256})
	})
	b.Run("runner", func(b *testing.B) {
		image := newRunnerImage(b, runnertest.Options{More: "images: {runner: {}}\n"})
		images, err := filepath.Glob(filepath.Join(image.bed.Pool, "*.vmimage.*w*"))
		if err != nil || len(images) != 1 {
			b.Fatalf("the pool has the images %q, %v", images, err)
		}
		disk, err := tools.Make(b.Context(), tools.Spec{Debcloud: filepath.Join(image.programs, "debcloud"), Runner: filepath.Join(image.programs, "gitlab-runner"), Dir: b.TempDir()})
		if err != nil {
			b.Fatal(err)
		}
		if o := image.runner.Play(b.Context(), runnerJob(script("prepare_script", "true\n"))); o.State != "success" { // which makes the tools disk
			b.Fatal(o)
		}
		benchExecutor(b, image.runner, runnerJob, bareMachine{image: images[0], cpus: 2, memory: 1024, tools: disk.Path})
	})
}

func benchExecutor(b *testing.B, r *runnertest.Runner, job func(...runnertest.Stage) runnertest.Job, bare bareMachine) {
	var cold, alone, agent, stage, cleanup, cpu time.Duration
	stages, calls := 0, 0
	for b.Loop() {
		answered, up := bare.boot(b)
		agent += answered
		alone += up
		o := r.Play(b.Context(), job(script("prepare_script", "true\n"), script("build_script", "true\n"), script("after_script", "true\n")))
		if o.State != "success" {
			b.Fatal(o)
		}
		for _, c := range o.Calls {
			switch c.Name {
			case "prepare":
				cold += c.Took
			case "cleanup":
				cleanup += c.Took
			case "config":
			default:
				stage += c.Took
				stages++
			}
			cpu += c.CPU
			calls++
		}
	}
	b.ReportMetric(cold.Seconds()/alone.Seconds(), "cold/bare")
	b.ReportMetric(agent.Seconds()/float64(b.N), "bare-s/agent")
	b.ReportMetric(alone.Seconds()/float64(b.N), "bare-s/boot")
	b.ReportMetric(stage.Seconds()/float64(stages), "stage-s/call")
	b.ReportMetric(cleanup.Seconds()/float64(b.N), "cleanup-s/job")
	b.ReportMetric(cpu.Seconds()/float64(calls), "driver-cpu-s/call")
}

// bareMachine is QEMU alone, with the devices that a job's VM has.
type bareMachine struct {
	image        string
	cpus, memory int    // MiB
	tools        string // path of a tools disk, "" where the image has the agent itself
}

// boot boots it until its agent answers, and then until its system is up, as prepare does. Both times count from power-on.
func (m bareMachine) boot(b *testing.B) (agent, up time.Duration) {
	b.Helper()
	socket := filepath.Join(b.TempDir(), "agent")
	secret := guest.NewSecret()
	ctx, cancel := context.WithTimeout(b.Context(), 5*time.Minute)
	defer cancel()
	format := "qcow2"
	if strings.HasSuffix(m.image, ".raw") {
		format = "raw"
	}
	args := []string{"-machine", "q35,hpet=off", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", fmt.Sprint(m.memory), "-smp", fmt.Sprint(m.cpus),
		"-display", "none", "-nodefaults", "-no-user-config", "-vga", "std", "-serial", "null", "-smbios", "type=11,value=" + secret.OEMString(),
		"-drive", "if=none,id=root,snapshot=on,cache=unsafe,format=" + format + ",file=" + m.image, "-device", "virtio-blk-pci,drive=root,bootindex=1", "-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng",
		"-device", "virtio-serial", "-chardev", "socket,id=agent,server=on,wait=off,path=" + socket, "-device", "virtserialport,chardev=agent,name=" + guest.AgentPort}
	if m.tools != "" {
		args = append(args, "-drive", "if=none,id=tools,format=raw,readonly=on,file="+m.tools, "-device", "virtio-blk-pci,drive=tools,serial="+tools.Serial)
	}
	begun := time.Now()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", args...)
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	s, err := guest.DialAgent(ctx, guest.Socket(socket), secret, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	if err := s.Exec(ctx, guest.Command{Args: []string{"true"}}); err != nil {
		b.Fatal(err)
	}
	agent = time.Since(begun)
	wait := guest.Command{Args: []string{"sh", "-c", "if [ -d /run/systemd/system ]; then systemctl is-system-running --wait; fi"}}
	if err := s.Exec(ctx, wait); err != nil {
		b.Fatal(err)
	}
	return agent, time.Since(begun)
}
