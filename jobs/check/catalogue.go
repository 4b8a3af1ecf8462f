package check

// catalogue holds every check, by number. Add one by writing its function and its line here; the number is that of
// the project's list of checks, and a test fails until it has a row that passes and one that fails.
var catalogue = []check{
	{0, "readable", "The partition table and the whole root file system can be read.", nil, readable},
	{1, "empty-directories", "Directories for what lives only at run time, and apt's caches, are empty.", nil, emptyDirectories},
	{2, "no-strays", "No mail name, and no links to the kernel in the root directory.", nil, noStrays},
	{3, "kernel", "One kernel with its initrd and modules is there, and GRUB boots it.", nil, kernel},
	{4, "boot-loader", "GRUB is there for each firmware of the architecture.", withGRUB, bootLoader},
	{5, "cloud-release", "/etc/cloud-release says which image this is.", nil, cloudRelease},
	{6, "locale", "The locale is C.UTF-8.", nil, locale},
	{7, "fstab", "fstab mounts partitions of this image by PARTUUID and grows the root file system.", nil, fstab},
	{8, "resolv-conf", "/etc/resolv.conf is absent or a link.", nil, resolvConf},
	{9, "accounts", "Only users and groups of Debian's own packages exist.", nil, accounts},
	{10, "shells", "Only root can log in with a shell, and all identifiers are those of system accounts.", nil, shells},
	{11, "packages-installed", "Every package is installed and configured, and they are those of the build document.", nil, packagesInstalled},
	{12, "logs", "/var/log holds only empty files and directories that belong there.", nil, logs},
	{13, "machine-id", "The machine ID is left to the first boot.", nil, machineID},
	{14, "host-keys", "No SSH host keys are in the image.", nil, hostKeys},
	{15, "hostname", "The host name is left to the first boot.", nil, hostname},
	{16, "no-traces", "No authorized or known keys and no shell history.", nil, noTraces},
	{17, "no-passwords", "No account has a password; on nocloud root's is empty.", nil, noPasswords},
	{18, "debsums", "Every file of every package has the content that the package gave it.", nil, debsums},
	{19, "kernel-variant", "The kernel is of the variant and release that the vendor and release ask for.", nil, kernelVariant},
	{20, "vendor-packages", "The packages that the vendor's machines need are installed.", nil, vendorPackages},
}
