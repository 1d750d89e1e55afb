# package.sh SCRATCH OLD.deb NEW.deb: a package's life, on a copy of this host's root.
scratch=$1 old=$2 new=$3

mkdir "$scratch/memory" "$scratch/root"
mount -t tmpfs tmpfs "$scratch/memory"
mkdir "$scratch/memory/upper" "$scratch/memory/work"
mount -t overlay overlay -o "lowerdir=/,upperdir=$scratch/memory/upper,workdir=$scratch/memory/work" \
    "$scratch/root"
root=$scratch/root
mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"
mount -t sysfs sysfs "$root/sys"
mount -t bpf bpf "$root/sys/fs/bpf"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
cp "$old" "$root/tmp/old.deb"
cp "$new" "$root/tmp/new.deb"

inside() { chroot "$root" env PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"; }
installed() { inside dpkg --install "/tmp/$1.deb" 2>&1; }

echo "-- install"
installed old | tee "$scratch/install.log"
grep 'nothing to serve yet' "$scratch/install.log"
inside steerage --version
inside id steerage
inside test -s /usr/share/man/man8/steerage.8.gz
inside test -s /usr/share/steerage/grafana/steerage.json
inside test -s /usr/share/steerage/prometheus/steerage.rules.yml
inside bash -c '. /usr/share/bash-completion/completions/steerage; complete -p steerage'
inside steerage check /etc/steerage/steerage.toml 2>&1 | grep 'nothing to serve'

echo "-- serve"
cat > "$root/etc/steerage/steerage.toml" << 'TOML'
[global]
metrics = "off"
[[listener]]
name = "web"
bind = ["127.0.0.1:8080"]
protocol = "http"
[[listener.route]]
redirect = { to = "https://example.com/", status = 308 }
path_exact = "/"
TOML
inside steerage run > "$scratch/daemon.log" 2>&1 &
daemon=$!
trap 'kill "$daemon" 2> /dev/null || true; cat "$scratch/daemon.log" >&2' EXIT
tries=0
until inside steerage status --json > /dev/null 2>&1; do
    tries=$((tries + 1))
    test $tries -lt 200
    sleep 0.05
done
former=$(cat "$root/run/steerage/steerage.pid")

echo "-- upgrade under load"
(
    failed=0 sent=0
    while [ ! -e "$scratch/enough" ]; do
        status=$(curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:8080/ || true)
        sent=$((sent + 1))
        [ "$status" = 308 ] || failed=$((failed + 1))
    done
    echo "requests sent: $sent"
    echo "requests failed: $failed"
) > "$scratch/load.log" &
load=$!
installed new
touch "$scratch/enough"
wait $load
cat "$scratch/load.log"
latter=$(cat "$root/run/steerage/steerage.pid")
echo "process $former, then $latter"
test "$former" != "$latter"
grep -q '^metrics = "off"' "$root/etc/steerage/steerage.toml"
test "$(inside dpkg-query --show --showformat '${Version}' steerage)" = 1.0.1

echo "-- remove and purge"
kill "$latter"
while kill -0 "$latter" 2> /dev/null; do sleep 0.05; done
trap - EXIT
inside dpkg --remove steerage 2>&1
test -e "$root/etc/steerage/steerage.toml"
inside dpkg --purge steerage 2>&1
for path in /usr/bin/steerage /etc/steerage /var/log/steerage /run/steerage /sys/fs/bpf/steerage \
    /usr/lib/systemd/system/steerage.service /usr/share/doc/steerage; do
    test ! -e "$root$path" || { echo "left: $path"; exit 1; }
done
echo "nothing is left"
