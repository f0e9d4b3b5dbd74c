package deploy_test

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func TestLint(t *testing.T) {
	out, err := helm(t, "lint", "--strict", "--kube-version", "1.30.0", "--namespace", namespace, chart)
	if err != nil || strings.Contains(out, "[WARNING]") {
		t.Errorf("%s%v", out, err)
	}
}

func daemonSet(t *testing.T, sets ...string) *appsv1.DaemonSet {
	t.Helper()
	return one[*appsv1.DaemonSet](t, rendered(t, setFlags(sets)...))
}

func setFlags(sets []string) []string {
	var flags []string
	for _, set := range sets {
		flags = append(flags, "--set", set)
	}
	return flags
}

func container(t *testing.T, list []corev1.Container, name string) corev1.Container {
	t.Helper()
	i := slices.IndexFunc(list, func(c corev1.Container) bool { return c.Name == name })
	if i < 0 {
		t.Fatalf("no container %s", name)
	}
	return list[i]
}

func TestDaemonSet(t *testing.T) {
	ds := daemonSet(t)
	if ds.Name != "seamarkd" || ds.Namespace != namespace {
		t.Errorf("it is %s/%s", ds.Namespace, ds.Name)
	}
	zero, unavailable := intstr.FromInt32(0), intstr.FromInt32(1)
	want := appsv1.DaemonSetUpdateStrategy{Type: appsv1.RollingUpdateDaemonSetStrategyType,
		RollingUpdate: &appsv1.RollingUpdateDaemonSet{MaxUnavailable: &unavailable, MaxSurge: &zero}}
	if !reflect.DeepEqual(ds.Spec.UpdateStrategy, want) || ds.Spec.MinReadySeconds == 0 {
		t.Errorf("update strategy %+v, minReadySeconds %d", ds.Spec.UpdateStrategy, ds.Spec.MinReadySeconds)
	}
	for key, value := range ds.Spec.Selector.MatchLabels {
		if ds.Spec.Template.Labels[key] != value {
			t.Errorf("the selector's %s=%s is not on the pods: %v", key, value, ds.Spec.Template.Labels)
		}
	}
	pod := ds.Spec.Template.Spec
	if !pod.HostNetwork || pod.HostPID || pod.HostIPC {
		t.Errorf("hostNetwork %v, hostPID %v, hostIPC %v", pod.HostNetwork, pod.HostPID, pod.HostIPC)
	}
	if pod.PriorityClassName != "system-node-critical" || pod.ServiceAccountName != "seamarkd" {
		t.Errorf("priority class %q, service account %q", pod.PriorityClassName, pod.ServiceAccountName)
	}
	if !reflect.DeepEqual(pod.Tolerations, []corev1.Toleration{{Operator: corev1.TolerationOpExists}}) {
		t.Errorf("tolerations %+v leave nodes out", pod.Tolerations)
	}
	if !reflect.DeepEqual(pod.NodeSelector, map[string]string{"kubernetes.io/os": "linux"}) {
		t.Errorf("node selector %v", pod.NodeSelector)
	}
	// The lease is stretched when the daemon stops; it must have stopped, and be
	// back, within that time.
	if grace := pod.TerminationGracePeriodSeconds; grace == nil || *grace < 5 || *grace >= 30 {
		t.Errorf("terminationGracePeriodSeconds %v", grace)
	}
	daemon := container(t, pod.Containers, "seamarkd")
	for name, tc := range map[string]struct {
		probe *corev1.Probe
		flag  string
	}{
		"startup":   {daemon.StartupProbe, "--live"},
		"liveness":  {daemon.LivenessProbe, "--live"},
		"readiness": {daemon.ReadinessProbe, "--ready"},
	} {
		if tc.probe == nil || tc.probe.Exec == nil ||
			!slices.Equal(tc.probe.Exec.Command, []string{"/usr/local/bin/seamark", "health", tc.flag}) {
			t.Errorf("%s probe %+v", name, tc.probe)
		} else if tc.probe.TimeoutSeconds <= 4 {
			t.Errorf("%s probe ends after %d s, before seamark health gives up (4 s) and says why", name, tc.probe.TimeoutSeconds)
		}
	}
	if security := daemon.SecurityContext; security.Privileged != nil || !*security.ReadOnlyRootFilesystem ||
		!slices.Equal(security.Capabilities.Drop, []corev1.Capability{"ALL"}) {
		t.Errorf("security context %+v", security)
	}
	if i := slices.IndexFunc(daemon.Env, func(e corev1.EnvVar) bool { return e.Name == "NODE_NAME" }); i < 0 ||
		daemon.Env[i].ValueFrom.FieldRef.FieldPath != "spec.nodeName" {
		t.Errorf("environment %+v", daemon.Env)
	}
	wantMount := corev1.MountPropagationHostToContainer
	checkMount(t, pod, daemon, "/sys/fs/bpf", "/sys/fs/bpf", &wantMount)
	checkMount(t, pod, daemon, "/var/lib/seamark", "/var/lib/seamark", nil)
	checkMount(t, pod, daemon, "/run/seamark", "/run/seamark", nil)
	checkMount(t, pod, daemon, cniConfDir, cniConfDir, nil)
	mount := container(t, pod.InitContainers, "mount-bpffs")
	wantMount = corev1.MountPropagationBidirectional
	checkMount(t, pod, mount, "/sys/fs/bpf", "/sys/fs/bpf", &wantMount)
	if !*mount.SecurityContext.Privileged {
		t.Error("a mount that is to reach the node needs a privileged container")
	}
	if len(pod.InitContainers) != 1 {
		t.Errorf("%d init containers", len(pod.InitContainers))
	}
}

// cniConfDir is where the daemon looks at configurations, and changes none.
const cniConfDir = "/etc/cni/net.d"

// checkMount looks for the node's hostPath at path in the container.
func checkMount(t *testing.T, pod corev1.PodSpec, c corev1.Container, path, hostPath string, propagation *corev1.MountPropagationMode) {
	t.Helper()
	i := slices.IndexFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == path })
	if i < 0 {
		t.Errorf("container %s has no %s", c.Name, path)
		return
	}
	m := c.VolumeMounts[i]
	if !reflect.DeepEqual(m.MountPropagation, propagation) || m.ReadOnly != (path == cniConfDir) {
		t.Errorf("container %s: mount %+v", c.Name, m)
	}
	i = slices.IndexFunc(pod.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name })
	if i < 0 || pod.Volumes[i].HostPath == nil || pod.Volumes[i].HostPath.Path != hostPath {
		t.Errorf("container %s: %s is not the node's %s", c.Name, path, hostPath)
	}
}

func TestCNI(t *testing.T) {
	ds := daemonSet(t, "cni.enabled=true", "cni.binDir=/usr/libexec/cni", "cni.confDir=/var/etc/cni")
	pod := ds.Spec.Template.Spec
	install := container(t, pod.InitContainers, "install-cni")
	if want := []string{"/usr/local/bin/seamarkd", "install-cni", "--bin-dir=/host/cni/bin", "--conf-dir=/host/cni/conf"}; !slices.Equal(install.Command, want) {
		t.Errorf("command %q", install.Command)
	}
	checkMount(t, pod, install, "/host/cni/bin", "/usr/libexec/cni", nil)
	checkMount(t, pod, install, "/host/cni/conf", "/var/etc/cni", nil)
	daemon := container(t, pod.Containers, "seamarkd")
	checkMount(t, pod, daemon, cniConfDir, "/var/etc/cni", nil)
	later := corev1.MountPropagationHostToContainer
	checkMount(t, pod, daemon, "/run/netns", "/run/netns", &later)
	checkMount(t, pod, daemon, "/var/run/netns", "/run/netns", &later)
	// Only a privileged container's /proc/sys is writable.
	if security := daemon.SecurityContext; security.Privileged == nil || !*security.Privileged || security.Capabilities != nil {
		t.Errorf("security context %+v", security)
	}
}

// What each value does, beside the defaults.
func TestValues(t *testing.T) {
	daemon := func(t *testing.T, sets ...string) corev1.Container {
		return container(t, daemonSet(t, sets...).Spec.Template.Spec.Containers, "seamarkd")
	}
	t.Run("args", func(t *testing.T) {
		c := daemon(t, "logLevel=debug", "leaseDurationSeconds=9", "leaseRenewSeconds=3", "restartGraceSeconds=120", "kubeQPS=25",
			"drainOnCordon=true", "ignoreOtherAnnouncers=true", "flows.established=16777216", "flows.halfOpen=1000000", "metrics.address=$(NODE_IP):9962", "extraArgs={--x=a b,--y}", "nodeIPFromKubelet=false", "forwardingMode=hybrid")
		want := []string{"--store=kube", "--node-name=$(NODE_NAME)", "--lease-duration=9s", "--lease-renew=3s", "--restart-grace=120s",
			"--forwarding-mode=hybrid", "--flows=16777216", "--half-open-flows=1000000", "--kube-qps=25", "--drain-on-cordon", "--ignore-other-announcers", "--metrics-addr=$(NODE_IP):9962", "--log-level=debug", "--x=a b", "--y"}
		if !slices.Equal(c.Args, want) {
			t.Errorf("args %q\nwant %q", c.Args, want)
		}
	})
	t.Run("forwarding", func(t *testing.T) {
		for set, want := range map[string]string{"cni.enabled=false": "kube-proxy", "cni.enabled=true": "dsr"} {
			if c := daemon(t, set); !slices.Contains(c.Args, "--forwarding-mode="+want) {
				t.Errorf("with %s: args %q, want --forwarding-mode=%s", set, c.Args, want)
			}
		}
	})
	t.Run("API server", func(t *testing.T) {
		c := daemon(t, "apiServer.host=192.168.10.100", "apiServer.port=16443")
		for _, want := range []corev1.EnvVar{{Name: "KUBERNETES_SERVICE_HOST", Value: "192.168.10.100"}, {Name: "KUBERNETES_SERVICE_PORT", Value: "16443"}} {
			if !slices.Contains(c.Env, want) {
				t.Errorf("environment %+v lacks %+v", c.Env, want)
			}
		}
	})
	t.Run("image", func(t *testing.T) {
		ds := daemonSet(t, "image.repository=registry:5000/sm", "image.tag=v9", "image.pullPolicy=Always", "imagePullSecrets={a,b}", "cni.enabled=true")
		pod := ds.Spec.Template.Spec
		for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
			if c.Image != "registry:5000/sm:v9" || c.ImagePullPolicy != corev1.PullAlways {
				t.Errorf("container %s: image %s, %s", c.Name, c.Image, c.ImagePullPolicy)
			}
		}
		if !slices.Equal(pod.ImagePullSecrets, []corev1.LocalObjectReference{{Name: "a"}, {Name: "b"}}) {
			t.Errorf("pull secrets %v", pod.ImagePullSecrets)
		}
	})
	t.Run("pods", func(t *testing.T) {
		ds := daemonSet(t, "privileged=true", "bpffs.mount=false", "nodeSelector.lb=yes", "podAnnotations.a=b", "podLabels.c=d",
			"priorityClassName=high", "minReadySeconds=3", "terminationGracePeriodSeconds=7", "resources.limits.memory=1Gi",
			"affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution=null", "tolerations[0].key=k", "tolerations[0].operator=Exists")
		pod := ds.Spec.Template.Spec
		c := container(t, pod.Containers, "seamarkd")
		if !*c.SecurityContext.Privileged || len(pod.InitContainers) != 0 || pod.NodeSelector["lb"] != "yes" ||
			ds.Spec.Template.Annotations["a"] != "b" || ds.Spec.Template.Labels["c"] != "d" || pod.PriorityClassName != "high" ||
			ds.Spec.MinReadySeconds != 3 || *pod.TerminationGracePeriodSeconds != 7 || c.Resources.Limits.Memory().String() != "1Gi" ||
			pod.Affinity == nil || len(pod.Tolerations) != 1 || pod.Tolerations[0].Key != "k" {
			t.Errorf("pods %+v", ds.Spec)
		}
	})
}

// A value that is wrong is refused by its name.
func TestRefused(t *testing.T) {
	for _, tc := range []struct {
		flags string
		want  string
	}{
		{"--set leaseDuration=3s", "'leaseDuration' not allowed"},
		{"--set cni.enable=true", "'enable' not allowed"},
		{"--set-string cni.enabled=yes", "/cni/enabled"},
		{"--set cni.binDir=opt/cni/bin", "/cni/binDir"},
		{"--set image.pullPolicy=Sometimes", "/image/pullPolicy"},
		{"--set image.repository=", "/image/repository"},
		{"--set logLevel=loud", "/logLevel"},
		{"--set leaseDurationSeconds=1", "/leaseDurationSeconds"},
		{"--set leaseDurationSeconds=3.5", "/leaseDurationSeconds"},
		{"--set kubeQPS=0", "/kubeQPS"},
		{"--set apiServer.port=70000", "/apiServer/port"},
		{"--set flows.established=-1", "/flows/established"},
		{"--set metrics.address=9962", "/metrics/address"},
		{"--set compat.cilium.crds=maybe", "/compat/cilium/crds"},
		{"--set compat.calico.crds=true", "'calico' not allowed"},
		{"--set extraArgs={loglevel}", "/extraArgs/0"},
		{"--set tolerations=all", "/tolerations"},
		// What two values must be together.
		{"--set leaseRenewSeconds=2", "leaseDurationSeconds 3 is less than three times leaseRenewSeconds 2"},
		{"--set leaseDurationSeconds=60", "restartGraceSeconds 30 is less than leaseDurationSeconds 60"},
		{"--set terminationGracePeriodSeconds=30", "terminationGracePeriodSeconds 30 is not less than restartGraceSeconds 30"},
		{"--namespace kube-system", `namespace "kube-system": want seamark-system`},
		{"--kube-version 1.29.0", "kubeVersion: >=1.30"},
	} {
		_, err := template(t, strings.Fields(tc.flags)...)
		if err == nil {
			t.Errorf("%s: rendered", tc.flags)
		} else if !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: error does not say %q: %v", tc.flags, tc.want, err)
		}
	}
}

// appVersion is in one place: the image's tag and the label are it.
func TestVersion(t *testing.T) {
	chartFile, err := helm(t, "show", "chart", chart)
	if err != nil {
		t.Fatal(err)
	}
	var version string
	for line := range strings.Lines(chartFile) {
		if v, ok := strings.CutPrefix(line, "appVersion: "); ok {
			version = strings.TrimSpace(v)
		}
	}
	ds := daemonSet(t)
	if version == "" || ds.Labels["app.kubernetes.io/version"] != version {
		t.Errorf("appVersion %q, label %q", version, ds.Labels["app.kubernetes.io/version"])
	}
	for _, c := range slices.Concat(ds.Spec.Template.Spec.InitContainers, ds.Spec.Template.Spec.Containers) {
		if c.Image != "seamark/seamark:"+version {
			t.Errorf("container %s: image %s", c.Name, c.Image)
		}
	}
}

// Instead of the daemon, what removes it from the nodes: all of it, and not
// where a daemon runs.
func TestCleanup(t *testing.T) {
	objs := rendered(t, "--set", "cleanup.enabled=true,cleanup.pauseImage=registry:5000/pause,image.tag=v9")
	ds := one[*appsv1.DaemonSet](t, objs)
	pod := ds.Spec.Template.Spec
	cleanup := container(t, pod.InitContainers, "cleanup")
	if want := []string{"/usr/local/bin/seamarkd", "cleanup"}; !slices.Equal(cleanup.Command, want) || cleanup.Image != "seamark/seamark:v9" {
		t.Errorf("%s runs %q", cleanup.Image, cleanup.Command)
	}
	if image := container(t, pod.Containers, "done").Image; image != "registry:5000/pause" {
		t.Errorf("it waits with %s", image)
	}
	daemon := daemonSet(t).Spec.Template.Spec
	if !pod.HostNetwork || !reflect.DeepEqual(pod.Tolerations, daemon.Tolerations) || !reflect.DeepEqual(pod.NodeSelector, daemon.NodeSelector) {
		t.Errorf("it is not where the daemon is: %+v", pod)
	}
	for _, path := range []string{"/sys/fs/bpf", "/var/lib/seamark", "/run/seamark"} {
		checkMount(t, pod, cleanup, path, path, nil)
	}
	if ds.Spec.Selector.MatchLabels["app.kubernetes.io/component"] == daemonSet(t).Spec.Selector.MatchLabels["app.kubernetes.io/component"] {
		t.Error("the two DaemonSets would take each other's pods")
	}
}

// Which objects there are, by what is switched on.
func TestObjects(t *testing.T) {
	without := func(objs []runtime.Object) []string {
		return slices.DeleteFunc(names(t, objs), func(n string) bool { return strings.HasPrefix(n, "CustomResourceDefinition/") })
	}
	want := []string{"ClusterRole/seamarkd", "ClusterRoleBinding/seamarkd", "DaemonSet/seamarkd", "Role/seamarkd", "RoleBinding/seamarkd", "ServiceAccount/seamarkd"}
	objs := without(rendered(t, setFlags([]string{"cni.enabled=true", "compat.cilium.crds=true"})...))
	slices.Sort(objs)
	if !slices.Equal(objs, want) {
		t.Errorf("objects %q\nwant %q", objs, want)
	}
	if crds := only[*apiextensionsv1.CustomResourceDefinition](rendered(t, "--set", "crds.install=false")); len(crds) != 0 {
		t.Errorf("%d CRDs with crds.install=false", len(crds))
	}
}
