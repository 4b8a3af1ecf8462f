package executor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"salsa.debian.org/cloud-team/debcloud/executor/admission"
	"salsa.debian.org/cloud-team/debcloud/executor/settings"
	"salsa.debian.org/cloud-team/debcloud/executor/tools"
	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/guest"
	"salsa.debian.org/cloud-team/debcloud/internal/hold"
	"salsa.debian.org/cloud-team/debcloud/internal/vm"
)

// order is what a job gets, settled before anything is made for it.
type order struct {
	job     Job
	attempt attempt
	image   string
	base    Base
	spec    vm.LastingSpec
	mark    Mark
	need    settings.Resources
	machine settings.Machine
}

// Prepare gives the job a VM whose agent answers. What it has begun it takes away again when it fails.
func (d *Driver) Prepare(ctx context.Context) error {
	err := d.prepare(ctx)
	if err != nil { // else the stages will tell
		d.note(resultOf(ctx, err))
	}
	return err
}

func (d *Driver) prepare(ctx context.Context) error {
	begun := time.Now()
	ctx, stop := d.whileRunnerLives(ctx)
	defer stop()
	defer d.letGo()
	o, err := d.settle(ctx)
	if err != nil {
		return err
	}
	if err := d.removeEarlier(ctx, o); err != nil {
		return err
	}
	name, warm := d.claim(ctx, o)
	if warm && d.furnishOrRemove(ctx, name, o, true) != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		warm = false // as if none had stood ready
	}
	var waited time.Duration
	if !warm {
		name = o.spec.Name
		if waited, err = d.boot(ctx, o); err != nil {
			return err
		}
		if err := d.furnishOrRemove(ctx, name, o, false); err != nil {
			return err
		}
	}
	d.ready(ctx, name, o, warm, time.Since(begun)-waited)
	return nil
}

func (d *Driver) furnishOrRemove(ctx context.Context, name string, o order, warm bool) error {
	err := d.furnish(ctx, name, o, warm)
	if err == nil {
		return nil
	}
	d.Log.ErrorContext(ctx, "a virtual machine is no good", "domain", name, "warm", warm, "job", o.job.ID, "image", o.image, "error", err, "qemu", d.node.DaemonLog(name))
	return errors.Join(err, d.remove(ctx, name))
}

func (d *Driver) ready(ctx context.Context, name string, o order, warm bool, took time.Duration) {
	accel, why := d.node.Accelerator(ctx)
	how := accel.String()
	if accel != vm.KVM {
		how += ", many times slower than KVM: " + why
	}
	d.say("virtual machine %s is ready after %.1f s: image %s, %d processors, %v memory, network %s, %s",
		name, took.Seconds(), o.image, o.spec.CPUs, o.machine.Memory, d.Settings.NetworkFor(o.job.Class).Mode, how)
	d.Log.InfoContext(ctx, "a job's virtual machine is ready", "domain", name, "job", o.job.ID, "project", o.job.Project, "class", o.job.Class,
		"image", o.image, "digest", o.base.Digest, "seconds", took.Seconds(), "warm", warm)
	if d.Metrics != nil {
		d.Metrics.Prepared(ctx, took.Seconds(), warm)
	}
}

// settle finds out what the job gets, and holds its files. What it cannot have is refused for good.
func (d *Driver) settle(ctx context.Context) (order, error) {
	o := order{}
	var err error
	if o.job, err = ReadJob(d.Environment.JobResponseFile); err != nil {
		return o, asRefusal(err)
	}
	var image settings.Image
	if o.image, image, err = d.Settings.ImageFor(d.Environment.Image); err != nil {
		return o, refusal{err}
	}
	if o.machine, err = d.Settings.MachineFor(o.job.Project, o.image, o.job.Asked); err != nil {
		return o, refusal{err}
	}
	if o.job.Testbed && !d.Settings.TestbedFor(o.job.Project, o.job.Class) {
		return o, refusal{fault.Inputf("project %s may not start further virtual machines from a job on %s (%s)", o.job.Project, o.job.Ref, o.job.Class)}
	}
	if err := d.connect(ctx); err != nil {
		return o, err
	}
	if err := d.demandAccelerator(ctx); err != nil {
		return o, err
	}
	if o.base, err = d.heldBase(ctx, o.image, image); err != nil {
		return o, err
	}
	return o, d.describe(ctx, &o, image)
}

// asRefusal makes bad input final.
func asRefusal(err error) error {
	if fault.KindOf(err) == fault.Input {
		return refusal{err}
	}
	return err
}

func (d *Driver) demandAccelerator(ctx context.Context) error {
	accel, why := d.node.Accelerator(ctx)
	if d.Settings.Libvirt.Accelerator == "kvm" && accel != vm.KVM {
		return fault.Outsidef("this host has no KVM, and its settings want it: %s", why)
	}
	return nil
}

// base finds the disk image.
func (d *Driver) base(ctx context.Context, name string, i settings.Image) (Base, error) {
	if i.File != "" {
		return Base{Path: i.File, Format: i.Format}, nil
	}
	pool, err := d.node.Pool(ctx)
	if err != nil {
		return Base{}, err
	}
	if d.Imported == nil {
		return Base{}, fault.Outsidef("VM image %s names no file, and there are no imported ones", name)
	}
	return d.Imported(ctx, pool, name, i.Digest)
}

// heldBase is base, kept from being pruned until letGo: a job may wait an hour for room before its disk stands on it.
func (d *Driver) heldBase(ctx context.Context, name string, i settings.Image) (Base, error) {
	if i.File != "" {
		return d.base(ctx, name, i) // an operator's, which is never pruned
	}
	var found Base
	_, err := d.hold(ctx, func() (path string, err error) {
		found, err = d.base(ctx, name, i)
		return found.Path, err
	})
	return found, err
}

// hold keeps the file that is found from being removed until letGo.
func (d *Driver) hold(ctx context.Context, find func() (string, error)) (path string, err error) {
	for range 3 { // it may go between the two; then another is found
		if path, err = find(); err != nil {
			return path, err
		}
		var release func()
		if release, err = hold.Keep(ctx, path); err == nil {
			d.held = append(d.held, release)
			return path, nil
		}
	}
	return path, fault.Outsidef("%w", err)
}

// letGo ends all holds: what was held is used by now, or will not be.
func (d *Driver) letGo() {
	for _, release := range d.held {
		release()
	}
	d.held = nil
}

// describe fills in the domain, its mark and what it needs of the host.
func (d *Driver) describe(ctx context.Context, o *order, i settings.Image) error {
	o.attempt = attempt{Dir: d.Environment.TempDir, Runner: runner(), Job: o.job.ID, Project: o.job.Project, Started: time.Now()}
	if noted, ok := d.notes().read(o.attempt.Dir); ok {
		o.attempt.Started = noted.Started
	}
	now := time.Now()
	o.mark = Mark{
		For: forJob, Job: o.job.ID, JobName: o.job.Name, Server: o.job.Server, ProjectID: o.job.ProjectID, Project: o.job.Project,
		Ref: o.job.Ref, Class: o.job.Class, URL: o.job.URL, Image: o.image, Digest: o.base.Digest, Attempt: o.attempt.Dir, Runner: o.attempt.Runner,
		Created: now, Deadline: now.Add(d.lifetime(o.job)), DiskBytes: int64(o.machine.Disk), Testbed: o.job.Testbed, Secret: guest.NewSecret(),
	}
	o.need = settings.Resources{VMs: 1, CPUs: o.machine.CPUs, Memory: o.machine.Memory, Disk: o.machine.Disk}
	if o.job.Testbed {
		b := d.Settings.Testbed.Budget
		o.need.VMs, o.need.CPUs, o.need.Memory, o.need.Disk = o.need.VMs+b.VMs, o.need.CPUs+b.CPUs, o.need.Memory+b.Memory, o.need.Disk+b.Disk
	}
	spec, err := d.spec(ctx, o.attempt.domainName(), o.mark, o.base, i, o.machine, d.Settings.NetworkFor(o.job.Class))
	o.spec = spec
	return err
}

// lifetime is how long a job's VM may exist.
func (d *Driver) lifetime(j Job) time.Duration {
	most := d.Settings.Deadlines.Job
	if j.Timeout > 0 {
		most = min(most, j.Timeout+d.Settings.Deadlines.Grace)
	}
	return most
}

// spec describes a VM of the executor, and holds its tools disk.
func (d *Driver) spec(ctx context.Context, name string, mark Mark, b Base, i settings.Image, m settings.Machine, n settings.Network) (vm.LastingSpec, error) {
	if err := demandDisk(ctx, mark.Image, b, m.Disk); err != nil {
		return vm.LastingSpec{}, err
	}
	element, err := mark.element()
	if err != nil {
		return vm.LastingSpec{}, err
	}
	s := vm.LastingSpec{
		Name: name, Metadata: element, Image: b.Path, ImageFormat: b.Format, DiskSize: int64(m.Disk), MemoryMiB: m.Memory.MiB(), CPUs: m.CPUs,
		Channel: guest.AgentPort, SMBIOS: vm.SMBIOS{OEMStrings: []string{mark.Secret.OEMString()}},
	}
	if i.Firmware == "uefi" {
		s.Firmware = vm.UEFI
	}
	if i.Seed == "nocloud" && d.WriteSeed != nil {
		s.Seed = func(path string) error { return d.WriteSeed(path, name) }
	}
	if d.Tools != nil {
		path, err := d.hold(ctx, func() (string, error) { return d.Tools(ctx) })
		if err != nil {
			return s, err
		}
		s.Disks = append(s.Disks, vm.Disk{Path: path, Serial: tools.Serial})
	}
	s.Network, err = d.attachment(ctx, n)
	return s, err
}

// demandDisk refuses a disk that cuts its image off: the guest would look for its root in vain until the time for its boot is over.
func demandDisk(ctx context.Context, name string, b Base, disk settings.Size) error {
	if disk == 0 {
		return nil
	}
	size, err := vm.VirtualSize(ctx, b.Path, b.Format)
	if err != nil {
		return err
	}
	if int64(disk) < size {
		return refusal{fault.WithHint(fault.Inputf("%v of disk are less than the %v of VM image %s", disk, settings.Size(size), name),
			"give the job more by its variable %s, or the image by its limits in the executor's settings", diskVariable)}
	}
	return nil
}

// attachment joins a VM to a network, which is made where there is none.
func (d *Driver) attachment(ctx context.Context, n settings.Network) (vm.Attachment, error) {
	switch n.Mode {
	case settings.None:
		return vm.Attachment{}, nil
	case settings.User:
		return vm.Attachment{User: true}, nil
	}
	own, err := hostAddresses()
	if err != nil {
		return vm.Attachment{}, err
	}
	a, err := d.node.EnsureNAT(ctx, n.Name, n.Filter, n.Subnet)
	a.Forbidden = own
	return a, err
}

// hostAddresses are the host's own IPv4 addresses beyond loopback, which jobs must not reach.
func hostAddresses() ([]string, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var found []string
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && !n.IP.IsLoopback() {
			found = append(found, n.IP.String())
		}
	}
	return found, nil
}

// removeEarlier takes away what earlier attempts of the same job have left, whose cleanup was killed.
func (d *Driver) removeEarlier(ctx context.Context, o order) error {
	all, err := d.machines(ctx)
	if err != nil {
		return err
	}
	for _, m := range all {
		same := m.Job == o.job.ID && m.Server == o.job.Server && m.For != forPool
		if !same || m.Attempt != o.attempt.Dir && m.Runner.Runs() && !(attempt{Dir: m.Attempt, Runner: m.Runner}).over() {
			continue
		}
		d.Log.InfoContext(ctx, "removing what an earlier attempt left", "domain", m.Lasting.Name, "job", m.Job)
		if err := d.remove(ctx, m.Lasting.Name); err != nil {
			return err
		}
	}
	return nil
}

// claim takes a warm VM, if there is one.
func (d *Driver) claim(ctx context.Context, o order) (string, bool) {
	if d.Claim == nil {
		return "", false
	}
	name, ok, err := d.Claim(ctx, Want{
		Image: o.image, Digest: o.base.Digest, Class: o.job.Class, Machine: o.machine, Testbed: o.job.Testbed,
		For: fmt.Sprintf("job %d of %s", o.job.ID, o.job.Project),
	})
	if err != nil {
		d.Log.WarnContext(ctx, "the warm pool cannot be asked", "error", err)
		return "", false
	}
	return name, ok
}

// boot waits for room on the host, starts the VM and tells how long it waited.
func (d *Driver) boot(ctx context.Context, o order) (time.Duration, error) {
	grant, err := d.admit(ctx, o)
	if err != nil {
		return 0, err
	}
	defer grant.Done()
	if err := d.node.Renew(ctx); err != nil { // libvirtd may have been restarted while the job waited
		return 0, errors.Join(err, d.release(ctx, o.spec.Name))
	}
	if err := d.node.Create(ctx, o.spec); err != nil {
		d.Log.ErrorContext(ctx, "a virtual machine does not start", "domain", o.spec.Name, "job", o.job.ID, "error", err)
		return 0, errors.Join(err, d.remove(ctx, o.spec.Name))
	}
	return grant.Waited, nil
}

func (d *Driver) admit(ctx context.Context, o order) (*admission.Grant, error) {
	l, err := d.ledger()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, d.Settings.Deadlines.Admission, fault.Outsidef("the host had no room for this job within %v", d.Settings.Deadlines.Admission))
	defer cancel()
	begun := time.Now()
	r := admission.Request{ID: o.spec.Name, Class: admission.Job, Need: o.need, For: fmt.Sprintf("job %d of %s", o.job.ID, o.job.Project)}
	if o.job.Testbed {
		r.Bed = d.Settings.Testbed.Budget
	}
	grant, err := l.Admit(ctx, r, func(p admission.Position) { d.say("%v", p) })
	if err == nil && d.Metrics != nil {
		d.Metrics.Admitted(ctx, time.Since(begun).Seconds())
	}
	return grant, asRefusal(err)
}

// furnish waits for the agent and makes sure that the job will find what it needs.
func (d *Driver) furnish(ctx context.Context, name string, o order, warm bool) error {
	mark := o.mark
	if warm {
		var err error
		if mark, err = d.adoptWarm(ctx, name, o.mark); err != nil {
			return err
		}
	}
	begun := time.Now()
	s, err := d.agent(ctx, name, mark.Secret, d.bootLimit(ctx))
	if err != nil {
		return err
	}
	defer s.Close()
	if !warm && d.Metrics != nil {
		d.Metrics.Booted(ctx, time.Since(begun).Seconds())
	}
	identity := guest.Identity{Hostname: o.attempt.domainName(), Time: time.Now()}
	if warm {
		identity = newIdentity(identity)
	}
	bounded, cancel := d.upInTime(ctx, 0)
	defer cancel()
	if err := s.Identify(bounded, identity); err != nil {
		return d.diagnose(ctx, name, err)
	}
	if warm {
		return nil // the pool has outfitted it
	}
	return d.outfit(ctx, s, name, o.image, d.Settings.NetworkFor(o.job.Class))
}

// upInTime bounds what comes between the agent's first answer and the first stage.
// more is for what begins when the system is up.
func (d *Driver) upInTime(ctx context.Context, more time.Duration) (context.Context, context.CancelFunc) {
	limit := d.bootLimit(ctx)
	return context.WithTimeoutCause(ctx, limit+more, fmt.Errorf("its agent answers, but its system was not up %v later", limit))
}

// outfitScript waits for the system, because the agent answers before it is up, makes directories, and prints the programs that
// are missing. Then it waits for the network, so many seconds: a route out and, from systemd-resolved, which fails at once before, a name
// server.
const outfitScript = `if [ -d /run/systemd/system ]; then
	case $(systemctl is-system-running --wait 2>/dev/null) in maintenance) exit 4 ;; esac
fi
mkdir -p %s || exit 3
for p in bash git gitlab-runner; do command -v $p >/dev/null || printf '%%s ' $p; done
online() {
	to=
	while read -r _ to _; do [ "$to" != 00000000 ] || break; done </proc/net/route
	[ "$to" = 00000000 ] && { [ ! -e /run/systemd/resolve/resolv.conf ] || grep -q ^nameserver /run/systemd/resolve/resolv.conf; }
}
limit=%d
read -r up _ </proc/uptime
end=$((${up%%.*} + limit))
until [ $limit = 0 ] || online; do
	read -r up _ </proc/uptime
	if [ ${up%%.*} -ge $end ]; then echo %s; break; fi
	sleep 0.1
done`

// offline is what outfitScript prints where there is no network in time. It is no program's name.
const offline = "/network"

// outfit makes Runner's directories, asks for the programs that Runner's scripts call, and waits for the network, if there is to be one.
func (d *Driver) outfit(ctx context.Context, s *guest.SSH, name, image string, network settings.Network) error {
	var forNetwork time.Duration
	if network.Mode != settings.None {
		forNetwork = d.Settings.Agent.Connect
	}
	directories := guest.Quote(d.Settings.Guest.BuildsDir) + " " + guest.Quote(d.Settings.Guest.CacheDir)
	script := fmt.Sprintf(outfitScript, directories, int(forNetwork.Seconds()), offline)
	var out, said strings.Builder
	bounded, cancel := d.upInTime(ctx, forNetwork)
	defer cancel()
	err := s.Exec(bounded, guest.Command{Args: []string{"sh", "-c", script}, Stdout: &out, Stderr: &said})
	if own, ok := errors.AsType[*guest.ExitError](err); ok && own.Code != 4 {
		return fault.Outsidef("the directories for the job cannot be made in the virtual machine: %s", strings.TrimSpace(said.String()))
	} else if ok {
		err = errors.New("its system came up in emergency mode")
	}
	if err != nil {
		return d.diagnose(ctx, name, err)
	}
	missing := strings.Fields(out.String())
	if i := slices.Index(missing, offline); i >= 0 {
		missing = slices.Delete(missing, i, i+1)
		d.say("the virtual machine has no network %v after its system was up, and goes on without", forNetwork)
		d.Log.WarnContext(ctx, "a virtual machine has no network", "domain", name, "image", image, "network", network.Name, "mode", network.Mode)
	}
	return d.without(image, missing)
}

// without judges what an image lacks of the programs that Runner's scripts call. One that gets a seed was not made for jobs: it may
// do without git, which is the concern of those that fetch their repository.
func (d *Driver) without(image string, missing []string) error {
	if i := slices.Index(missing, "git"); i >= 0 && d.Settings.Images[image].Seed != "" {
		missing = slices.Delete(missing, i, i+1)
		d.say("VM image %s has no git: a job needs GIT_STRATEGY none, or hooks:pre_get_sources_script that installs it", image)
	}
	if len(missing) > 0 {
		return fault.WithHint(fault.Outsidef("the VM image is broken: it has no %s", strings.Join(missing, ", ")), "tell who runs this executor")
	}
	return nil
}

func (d *Driver) bootLimit(ctx context.Context) time.Duration {
	if accel, _ := d.node.Accelerator(ctx); accel != vm.KVM {
		return d.Settings.Agent.BootEmulated
	}
	return d.Settings.Agent.Boot
}
