package main

import (
	"context"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/executor/runnertest"
	"salsa.debian.org/cloud-team/debcloud/internal/guest"
)

// BenchmarkExecutor plays jobs and boots the same image without libvirt and driver, by turns. It reports a cold prepare
// in relation to the bare boot (at most 1.1), and what the other calls take: a stage at most 0.5 s under TCG, cleanup at most
// 2 s, the driver's own processor time under 0.1 s a call.
func BenchmarkExecutor(b *testing.B) {
	image := testGuest(b)
	bed := runnertest.NewBed(b, runnertest.Options{Image: image})
	var cold, bare, stage, cleanup, cpu time.Duration
	stages, calls := 0, 0
	for b.Loop() {
		bare += bareBoot(b, image)
		o := newRunner(b, bed).Play(b.Context(), newJob(script("prepare_script", "true\n"), script("build_script", "true\n"), script("after_script", "true\n")))
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
	b.ReportMetric(cold.Seconds()/bare.Seconds(), "cold/bare")
	b.ReportMetric(bare.Seconds()/float64(b.N), "bare-s/boot")
	b.ReportMetric(stage.Seconds()/float64(stages), "stage-s/call")
	b.ReportMetric(cleanup.Seconds()/float64(b.N), "cleanup-s/job")
	b.ReportMetric(cpu.Seconds()/float64(calls), "driver-cpu-s/call")
}

// bareBoot boots the image in QEMU alone, with the devices that a job's VM has, until its agent answers.
func bareBoot(b *testing.B, image string) time.Duration {
	b.Helper()
	socket := filepath.Join(b.TempDir(), "agent")
	secret := guest.NewSecret()
	ctx, cancel := context.WithTimeout(b.Context(), 5*time.Minute)
	defer cancel()
	begun := time.Now()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-machine", "q35,hpet=off", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", "256", "-smp", "1",
		"-display", "none", "-nodefaults", "-no-user-config", "-vga", "std", "-serial", "null", "-smbios", "type=11,value="+secret.OEMString(),
		"-drive", "if=virtio,format=qcow2,snapshot=on,cache=unsafe,file="+image, "-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng",
		"-device", "virtio-serial", "-chardev", "socket,id=agent,server=on,wait=off,path="+socket, "-device", "virtserialport,chardev=agent,name="+guest.AgentPort)
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	s, err := guest.DialAgent(ctx, guest.Socket(socket), secret, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	if err := s.Ping(ctx); err != nil {
		b.Fatal(err)
	}
	return time.Since(begun)
}
