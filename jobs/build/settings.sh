#!/bin/sh
# Settings of apt and dpkg in the tree $1 that hold during the build; they are taken away when FAI has ended.
set -eu

mkdir -p "$1/etc/apt/apt.conf.d" "$1/etc/dpkg/dpkg.cfg.d"

# Descriptions are not needed to install. The path is dpkg's own, which apt would shorten.
cat >"$1/etc/apt/apt.conf.d/00debcloud" <<-'EOF'
	Acquire::Languages "none";
	Acquire::Retries "3";
	Acquire::http::Timeout "30";
	Acquire::https::Timeout "30";
	Dpkg::Use-Pty "false";
	DPkg::Path "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
EOF

# What a crash would lose is built again.
echo force-unsafe-io >"$1/etc/dpkg/dpkg.cfg.d/00debcloud"
