package settings

import (
	"path"
	"slices"
	"strings"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// Ref classes: whose code a job runs.
const (
	Protected   = "protected"
	Unprotected = "unprotected"
	Fork        = "fork"
)

// NetworkFor returns the network of a ref class. A class that is unknown gets that of forks, whom we trust least.
func (s *Settings) NetworkFor(class string) Network {
	switch class {
	case Protected:
		return s.Networks.Protected
	case Unprotected:
		return s.Networks.Unprotected
	default:
		return s.Networks.Fork
	}
}

// ImageFor returns the image that a job named, the default one for "". An unknown one is refused with the list.
func (s *Settings) ImageFor(name string) (string, Image, error) {
	if name == "" {
		name = s.DefaultImage
	}
	if i, ok := s.Images[name]; ok {
		return name, i, nil
	}
	return "", Image{}, fault.Inputf("there is no VM image %q here; there are: %s", name, strings.Join(s.ImageNames(), ", "))
}

// ImageNames returns the allow-list, sorted.
func (s *Settings) ImageNames() []string {
	var names []string
	for n := range s.Images {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// MachineFor returns the size of a job's VM: what it asks for (zero values: nothing), else the project's default, else
// the image's, else everybody's. project is the full path, image a name of the allow-list. More than the least of the
// three maxima is refused, as is less memory than any VM boots with, and a default above the maximum is lowered to it.
func (s *Settings) MachineFor(project, image string, asked Machine) (Machine, error) {
	limits := []Limits{s.limitsOf(project), s.Images[image].Limits, s.Limits}
	most := leastMaximum(limits)
	switch {
	case asked.CPUs < 0 || asked.Memory < 0 || asked.Disk < 0:
		return Machine{}, fault.Inputf("a VM of %d processors, %v memory and %v disk cannot be", asked.CPUs, asked.Memory, asked.Disk)
	case asked.Memory > 0 && asked.Memory < leastMemory:
		return Machine{}, fault.Inputf("%v of memory, by DEBCLOUD_MEMORY, are too little for any VM: at least %v", asked.Memory, Size(leastMemory))
	case most.CPUs > 0 && asked.CPUs > most.CPUs:
		return Machine{}, fault.Inputf("%d processors are more than the %d that project %s may have with image %s", asked.CPUs, most.CPUs, project, image)
	case most.Memory > 0 && asked.Memory > most.Memory:
		return Machine{}, fault.Inputf("%v of memory are more than the %v that project %s may have with image %s", asked.Memory, most.Memory, project, image)
	case most.Disk > 0 && asked.Disk > most.Disk:
		return Machine{}, fault.Inputf("%v of disk are more than the %v that project %s may have with image %s", asked.Disk, most.Disk, project, image)
	}
	got := Machine{}
	for _, l := range limits {
		got = got.or(l.Default)
	}
	return asked.or(got.atMost(most)), nil
}

func (s *Settings) limitsOf(project string) Limits {
	for _, p := range s.Projects {
		if matches(p.Match, project) {
			return p.Limits
		}
	}
	return Limits{}
}

func leastMaximum(limits []Limits) Machine {
	var least Machine
	for _, l := range limits {
		least = l.Max.atMost(least).or(least)
	}
	return least
}

// or fills in what m does not say.
func (m Machine) or(other Machine) Machine {
	return Machine{CPUs: first(m.CPUs, other.CPUs), Memory: first(m.Memory, other.Memory), Disk: first(m.Disk, other.Disk)}
}

// atMost lowers m to most, where that says something.
func (m Machine) atMost(most Machine) Machine {
	return Machine{CPUs: lower(m.CPUs, most.CPUs), Memory: lower(m.Memory, most.Memory), Disk: lower(m.Disk, most.Disk)}
}

func first[T int | Size](a, b T) T {
	if a != 0 {
		return a
	}
	return b
}

func lower[T int | Size](a, most T) T {
	if most != 0 {
		return min(a, most)
	}
	return a
}

// TestbedFor tells whether a job of the project and ref class may start sibling VMs.
func (s *Settings) TestbedFor(project, class string) bool {
	if class != Protected && (class != Unprotected || !s.Testbed.Unprotected) {
		return false
	}
	return slices.ContainsFunc(s.Testbed.Projects, func(p string) bool { return matches(p, project) })
}

// matches holds a project's path against a pattern. GitLab's paths do not differ in case alone.
func matches(pattern, project string) bool {
	if pattern == "**" {
		return true
	}
	pattern, project = strings.ToLower(pattern), strings.ToLower(project)
	if group, ok := strings.CutSuffix(pattern, "/**"); ok {
		parts := strings.Split(project, "/")
		depth := strings.Count(group, "/") + 1
		return len(parts) > depth && matches(group, strings.Join(parts[:depth], "/"))
	}
	ok, err := path.Match(pattern, project)
	return ok && err == nil
}
