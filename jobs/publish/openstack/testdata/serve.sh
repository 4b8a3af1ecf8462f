#!/bin/sh
# Starts Keystone and Glance in a chroot, in namespaces of its own: when this process ends, or is killed, nothing stays.
#
#   serve.sh CHROOT STATE KEYSTONE_PORT GLANCE_PORT
#
# STATE is an empty directory, which gets the databases, the images and the logs.
set -eu

if [ "${5:-}" != inside ]; then
	exec unshare --mount --pid --fork --kill-child "$0" "$@" inside
fi
chroot=$1 state=$2 keystone=$3 glance=$4

mount --make-rprivate /
mount --rbind /dev "$chroot/dev"
mount -t proc proc "$chroot/proc"
mount -t tmpfs tmpfs "$chroot/tmp"
mount --bind "$state" "$chroot/srv/state"
cp -a "$chroot/srv/seed/." "$state"
mkdir "$state/images" "$state/staging" "$state/tasks" "$state/lock"

cat >"$state/glance-api.conf" <<EOF
[DEFAULT]
bind_host = 127.0.0.1
bind_port = $glance
workers = 0
log_file = /srv/state/glance.log
enabled_import_methods = [glance-direct]
enabled_backends = file:file
[database]
connection = sqlite:////srv/state/glance.db
[glance_store]
default_backend = file
[file]
filesystem_store_datadir = /srv/state/images
[os_glance_staging_store]
filesystem_store_datadir = /srv/state/staging
[os_glance_tasks_store]
filesystem_store_datadir = /srv/state/tasks
[oslo_concurrency]
lock_path = /srv/state/lock
[oslo_policy]
policy_file = /srv/state/policy.yaml
[keystone_authtoken]
www_authenticate_uri = http://127.0.0.1:$keystone
auth_url = http://127.0.0.1:$keystone
auth_type = password
username = glance
password = glance
user_domain_name = Default
project_name = service
project_domain_name = Default
[paste_deploy]
flavor = keystone
EOF
# The least privilege that README.md asks for: a role that may publish images and nothing else.
echo '"publicize_image": "role:admin or role:image_publisher"' >"$state/policy.yaml"

inside() {
	env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 OS_KEYSTONE_CONFIG_FILES=/srv/state/keystone.conf chroot "$chroot" "$@"
}
inside sqlite3 /srv/state/keystone.db "UPDATE endpoint SET url = 'http://127.0.0.1:$keystone/v3'"
inside keystone-wsgi-public --host 127.0.0.1 -p "$keystone" >"$state/keystone.out" 2>&1 &
inside glance-api --config-file /srv/state/glance-api.conf >"$state/glance.out" 2>&1
