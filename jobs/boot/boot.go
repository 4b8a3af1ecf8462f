package boot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/guest"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
	"salsa.debian.org/cloud-team/debcloud/internal/progress"
	"salsa.debian.org/cloud-team/debcloud/internal/vm"
)

// SuiteName is the name of this step's suite in the report.
const SuiteName = "boot"

// Options say what to boot and how.
type Options struct {
	BuildPath string   // NAME.build.json; the image lies beside it
	Provider  string   // whose cloud to imitate; "" or "nocloud-seed": none
	Firmware  []string // bios, uefi; empty: every firmware of the architecture
	MemoryMiB int      // of each VM; 0: 1024
	CPUs      int      // of each VM; 0: 2
	// Timeout bounds each VM, from power-on to power-off. 0: ten minutes, and forty under emulation.
	Timeout    time.Duration
	Sequential bool // one VM after the other; else side by side where the memory allows it
	// Thorough repeats in each VM also what is slow under emulation and does not depend on the firmware: without it, one
	// emulated VM reboots, and the other updates its package lists, without their descriptions, and powers off. With KVM
	// each does all.
	Thorough bool
	Raw      bool   // only boot, until SSH answers: no checks, nothing recorded; to measure what the checks add
	Again    bool   // also if the image has a passing report already
	Dir      string // for overlays; "": the system's directory for temporary files
}

// bootLimits are for check 24, by accelerator. An emulated boot takes 80 s on two idle cores, and six times that on busy ones.
var bootLimits = map[vm.Accel]time.Duration{vm.KVM: time.Minute, vm.TCG: 15 * time.Minute}

// vmLimits bound the whole life of a VM, with its reboot.
var vmLimits = map[vm.Accel]time.Duration{vm.KVM: 10 * time.Minute, vm.TCG: 40 * time.Minute}

// growth is by how much the VM's disk is larger than the image, in bytes.
const growth = 2 << 30

// Run boots the image and records the suite "boot" in NAME.report.json and NAME.boot.xml beside it. Where the report
// already has a passing one for the same digest, that is returned.
//
// A suite with failed checks comes with an error of kind Work. Without a suite, nothing was recorded: an image that
// is truncated or altered, or an option that is not known, is of kind Input. With some of the firmwares left out,
// nothing is recorded either, as such a suite must not open the way to a publication.
func Run(ctx context.Context, o Options) (*manifest.Suite, error) {
	build, err := open(&o)
	if err != nil {
		return nil, err
	}
	if o.Raw && build.Data.Info.Vendor == "nocloud" {
		return nil, fault.Inputf("a raw boot ends when SSH answers, and a nocloud image has no key to log in with")
	}
	if s := earlier(o.BuildPath, build); s != nil && !o.Again && !o.Raw {
		if _, err := build.VerifyImage(ctx, o.BuildPath); err != nil {
			return nil, err
		}
		slog.InfoContext(ctx, "the image has passed its boot tests already", "report", reportPath(o.BuildPath))
		return s, nil
	}
	suite, err := run(ctx, o, build)
	if err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx) // whatever was under way when it ended is no fault of its own
	}
	if err != nil {
		return nil, err
	}
	if o.Raw {
		return suite, errors.Join(rawFaults(suite)...)
	}
	if complete := len(o.Firmware) == len(firmwares(build)); complete {
		if err := record(o.BuildPath, build, suite); err != nil {
			return nil, err
		}
	} else {
		slog.WarnContext(ctx, "nothing is recorded, because not every firmware was tested", "tested", o.Firmware)
	}
	return suite, summary(suite, build.Data.Image.Name, reportPath(o.BuildPath))
}

// summary returns the error for a suite with failed checks. It is of kind Outside where the mirror is all that failed, or
// the host of an emulated guest.
func summary(s *manifest.Suite, image, report string) error {
	failed := s.Failures()
	if len(failed) == 0 {
		return nil
	}
	text := fmt.Sprintf("%d of %d boot checks of %s failed", len(failed), len(s.Checks), image)
	if !slices.ContainsFunc(failed, func(c manifest.Check) bool { return outsideReason(c) == "" }) {
		return fault.Outsidef("%s: %s", text, outsideReason(failed[0]))
	}
	return fault.WithHint(errors.New(text), "the evidence and the console logs are in %s", report)
}

// outsideReason says why the image is not to blame for a failed check, "" where it is.
func outsideReason(c manifest.Check) string {
	if strings.HasPrefix(c.Evidence, mirrorUnreachable) {
		return c.Evidence
	}
	for _, f := range hostFaults {
		if strings.Contains(c.Evidence, f.says) {
			return f.says
		}
	}
	return ""
}

func reportPath(buildPath string) string { return manifest.Base(buildPath) + ".report.json" }

// rawFaults says which VMs never answered.
func rawFaults(s *manifest.Suite) []error {
	var errs []error
	for _, b := range s.Boots {
		if b.Times.SSH == 0 {
			errs = append(errs, fmt.Errorf("SSH never answered on the %s VM; its console ends with:\n%s", b.Firmware, guest.Tail([]byte(b.Console), 20)))
		}
	}
	return errs
}

// open reads the Build document and checks the options against it.
func open(o *Options) (*manifest.Build, error) {
	switch o.Provider {
	case "", "nocloud-seed":
	case "ec2", "gce", "azure", "openstack":
		return nil, fault.WithHint(fault.Inputf("provider %q cannot be imitated yet", o.Provider), "only nocloud-seed is there: the image is seeded by a NoCloud disk, whatever its vendor")
	default:
		return nil, fault.Inputf("provider %q is not known; there is nocloud-seed", o.Provider)
	}
	build, err := manifest.ReadBuild(o.BuildPath)
	if err != nil {
		return nil, err
	}
	all := firmwares(build)
	if len(all) == 0 {
		return nil, fault.Inputf("images for %s cannot be booted here yet; amd64 can", build.Data.Info.Arch)
	}
	if len(o.Firmware) == 0 {
		o.Firmware = all
	}
	for _, f := range o.Firmware {
		if !slices.Contains(all, f) {
			return nil, fault.Inputf("firmware %q is not one of %s, which machines of %s have", f, strings.Join(all, ", "), build.Data.Info.Arch)
		}
	}
	slices.Sort(o.Firmware)
	o.Firmware = slices.Compact(o.Firmware)
	return build, nil
}

// firmwares returns what can start a machine of the build's architecture.
func firmwares(build *manifest.Build) []string {
	if build.Data.Info.Arch == "amd64" {
		return []string{"bios", "uefi"}
	}
	return nil
}

// earlier returns the passing suite that the report has for this image, nil if there is none.
func earlier(buildPath string, build *manifest.Build) *manifest.Suite {
	r, err := manifest.ReadReport(reportPath(buildPath))
	digest, err2 := build.Metadata.Digest()
	if err != nil || err2 != nil || r.DemandPassed(digest, SuiteName) != nil {
		return nil
	}
	i := slices.IndexFunc(r.Data.Suites, func(s manifest.Suite) bool { return s.Name == SuiteName })
	return &r.Data.Suites[i]
}

func record(buildPath string, build *manifest.Build, suite *manifest.Suite) error {
	if err := suite.WriteJUnit(manifest.Base(buildPath)+".boot.xml", filepath.Base(manifest.Base(buildPath))); err != nil {
		return err
	}
	return manifest.RecordSuite(reportPath(buildPath), build, *suite)
}

// run boots one VM a firmware and judges them. The image is verified meanwhile: reading it takes seconds, and a VM on
// an overlay does it no harm. What an altered image did is never judged.
func run(ctx context.Context, o Options, build *manifest.Build) (*manifest.Suite, error) {
	started := time.Now()
	tasks, ctx := errgroup.WithContext(ctx)
	tasks.Go(func() error {
		_, err := build.VerifyImage(ctx, o.BuildPath)
		return err
	})
	var suite *manifest.Suite
	tasks.Go(func() (err error) {
		suite, err = bootHere(ctx, o, build, started)
		return err
	})
	return suite, tasks.Wait()
}

// bootHere boots the VMs on this host's libvirt, in a directory that it removes.
func bootHere(ctx context.Context, o Options, build *manifest.Build, started time.Time) (*manifest.Suite, error) {
	dir, remove, err := directory(o.Dir)
	if err != nil {
		return nil, err
	}
	defer remove()
	host, err := vm.Open(ctx, vm.Options{Dir: dir, Testbed: os.Getenv(vm.TestbedVariable)})
	if err != nil {
		return nil, err
	}
	defer host.Close()
	machines, err := bootAll(ctx, host, o, build, dir)
	if err != nil {
		return nil, err
	}
	return assemble(machines, host.Accelerator(), started), nil
}

func bootAll(ctx context.Context, host *vm.Host, o Options, build *manifest.Build, dir string) ([]*machine, error) {
	machines, err := prepare(o, build, host.Accelerator())
	if err != nil {
		return nil, err
	}
	group, inner := errgroup.WithContext(ctx)
	group.SetLimit(sideBySide(ctx, o, len(machines)))
	for _, m := range machines {
		group.Go(func() error { return m.boot(inner, host, o, dir) })
	}
	return machines, group.Wait()
}

// prepare makes a seed for each VM and shares out the duties.
func prepare(o Options, build *manifest.Build, accelerator vm.Accel) ([]*machine, error) {
	var machines []*machine
	for _, f := range o.Firmware {
		s, err := newSeed(f)
		if err != nil {
			return nil, err
		}
		machines = append(machines, &machine{observation: &observation{
			build: build, firmware: f, emulated: accelerator == vm.TCG, limit: bootLimits[accelerator],
			diskSize: build.Data.Image.Size + growth, seed: s, probes: map[string]probe{},
			raw: o.Raw, lean: accelerator == vm.TCG && !o.Thorough,
		}})
	}
	if len(machines) == 2 {
		bios, uefi := machines[0], machines[1]
		bios.peer, uefi.peer = uefi.observation, bios.observation
		if accelerator == vm.TCG && !o.Thorough {
			// The reboot takes longer than all the others, and UEFI reaches this point later. It ends with a clean shutdown too.
			bios.elsewhere = map[string]bool{schemaCheck: true, powerOffCheck: true, updateCheck: true}
			uefi.elsewhere = map[string]bool{rebootCheck: true}
		}
	}
	return machines, nil
}

// sideBySide tells how many VMs may run at a time.
func sideBySide(ctx context.Context, o Options, want int) int {
	available, err := availableMiB()
	const spare = 1024
	if o.Sequential || err != nil || available < want*o.memory()+spare {
		slog.InfoContext(ctx, "one VM at a time", "asked", o.Sequential, "memory MiB", available)
		return 1
	}
	return want
}

func (o Options) memory() int {
	if o.MemoryMiB > 0 {
		return o.MemoryMiB
	}
	return 1024
}

// availableMiB reads MemAvailable (proc_meminfo(5)).
func availableMiB() (int, error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range strings.SplitSeq(string(text), "\n") {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "MemAvailable:" {
			kib, err := strconv.Atoi(f[1])
			return kib / 1024, err
		}
	}
	return 0, errors.New("/proc/meminfo has no MemAvailable")
}

// boot takes one VM through its life. What goes wrong with the guest becomes its observation's fault; an error is
// returned where no guest could be started, or ctx ended.
func (m *machine) boot(ctx context.Context, host *vm.Host, o Options, dir string) (err error) {
	m.task = progress.Start(ctx, m.firmware, 0, false)
	defer m.task.Abort()
	spec := vm.Spec{
		Name: "boot-" + m.firmware, Image: m.build.ImagePath(o.BuildPath), DiskSize: m.diskSize, MemoryMiB: o.memory(), CPUs: o.CPUs,
	}
	if m.firmware == "uefi" {
		spec.Firmware, spec.SecureBoot = vm.UEFI, true
	}
	defer func() { err = errors.Join(err, m.stop(ctx)) }()
	if err := m.start(ctx, host, dir, spec); err != nil {
		return err
	}
	slog.DebugContext(ctx, "boot the same machine by hand with", "command", m.domain.CommandLine())
	m.fault = m.live(ctx, orElse(o.Timeout, vmLimits[host.Accelerator()]))
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if m.fault != nil {
		m.task.Say("given up: %s", firstLine(m.fault.Error()))
		return nil
	}
	m.task.Done()
	return nil
}

// live watches the console and exercises the guest until that is done or the time is over. The error ends with the
// last lines of the console.
func (m *machine) live(ctx context.Context, limit time.Duration) error {
	bounded, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("the VM was not done within %s", limit))
	defer cancel()
	doomed, doom := context.WithCancelCause(bounded)
	var watching errgroup.Group
	watching.Go(func() error { m.watch(doomed, doom); return nil })
	test := m.exercise
	if m.vendor() == "nocloud" {
		test = m.exerciseSerial
	}
	err := test(doomed)
	if cause := context.Cause(doomed); err != nil && cause != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	doom(nil)
	_ = watching.Wait()
	if err == nil {
		return nil
	}
	if f := hostFault(string(m.domain.Console())); m.emulated && f != "" {
		err = fmt.Errorf("%w; %s", err, f)
	}
	last := strings.ToValidUTF8(guest.Tail(m.domain.Console(), 20), "")
	if strings.TrimSpace(last) == "" {
		return fmt.Errorf("%w\nthe console printed nothing", err)
	}
	return fmt.Errorf("%w\nthe console's last lines:\n%s", err, last)
}

func orElse(value, otherwise time.Duration) time.Duration {
	if value > 0 {
		return value
	}
	return otherwise
}

// assemble judges what was observed.
func assemble(machines []*machine, accelerator vm.Accel, started time.Time) *manifest.Suite {
	s := &manifest.Suite{Name: SuiteName, Started: started.UTC()}
	for _, m := range machines {
		if !m.raw {
			s.Checks = append(s.Checks, judgeAll(m.observation)...)
		}
		s.Boots = append(s.Boots, manifest.Boot{
			Firmware:    m.firmware,
			Accelerator: strings.ToLower(accelerator.String()),
			Times:       bootTimes(m.marks, m.probes),
			Console:     plain(m.console),
		})
	}
	s.Seconds = time.Since(started).Seconds()
	return s
}
