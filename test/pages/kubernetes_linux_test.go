package pages

import (
	"errors"
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"handover/go/internal/testkit"
)

// object has the fields of Kubernetes' objects that docs/OPERATIONS.md uses. Any other field is an error.
type object struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string
	Metadata   metadata
	Spec       spec
}

type metadata struct {
	Name   string
	Labels map[string]string
}

type selector struct {
	MatchLabels map[string]string `yaml:"matchLabels"`
}

type spec struct {
	// Service
	ClusterIP                string `yaml:"clusterIP"`
	PublishNotReadyAddresses bool   `yaml:"publishNotReadyAddresses"`
	Ports                    []port
	Selector                 yaml.Node // labels, or the StatefulSet's selector
	// StatefulSet
	ServiceName string `yaml:"serviceName"`
	Replicas    int
	Template    struct {
		Metadata metadata
		Spec     struct{ Containers []container }
	}
	// NetworkPolicy
	PodSelector selector `yaml:"podSelector"`
	PolicyTypes []string `yaml:"policyTypes"`
	Ingress     []struct {
		From []struct {
			PodSelector selector `yaml:"podSelector"`
		}
		Ports []port
	}
}

type port struct {
	Name          string
	Port          int
	ContainerPort int `yaml:"containerPort"`
	Protocol      string
}

type container struct {
	Name, Image string
	Env         []struct {
		Name, Value string
		ValueFrom   struct {
			FieldRef struct {
				FieldPath string `yaml:"fieldPath"`
			} `yaml:"fieldRef"`
		} `yaml:"valueFrom"`
	}
	Ports          []port
	ReadinessProbe struct {
		Exec          struct{ Command []string }
		PeriodSeconds int `yaml:"periodSeconds"`
	} `yaml:"readinessProbe"`
}

// kubernetesObjects returns the objects in the yaml block of docs/OPERATIONS.md by version and kind.
func kubernetesObjects(t *testing.T) map[string]object {
	t.Helper()
	decoder := yaml.NewDecoder(strings.NewReader(onlyBlock(t, "yaml").text))
	decoder.KnownFields(true)
	found := map[string]object{}
	for {
		var o object
		err := decoder.Decode(&o)
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		found[o.APIVersion+" "+o.Kind] = o
	}
}

// TestKubernetes checks that the objects refer to each other, and that a node with the variables of the container becomes ready
// by the probe and can be reached through one port.
func TestKubernetes(t *testing.T) {
	found := kubernetesObjects(t)
	service, set, policy := found["v1 Service"], found["apps/v1 StatefulSet"], found["networking.k8s.io/v1 NetworkPolicy"]
	if len(found) != 3 || len(set.Spec.Template.Spec.Containers) != 1 || len(policy.Spec.Ingress) != 1 {
		t.Fatalf("%d objects, want 3: %v", len(found), found)
	}
	var labels map[string]string
	var chosen selector
	if err := errors.Join(service.Spec.Selector.Decode(&labels), set.Spec.Selector.Decode(&chosen)); err != nil {
		t.Fatal(err)
	}
	app, from := set.Spec.Template.Spec.Containers[0], policy.Spec.Ingress[0]
	for what, got := range map[string]string{
		"the service's pods": labels["app"], "the set's pods": chosen.MatchLabels["app"], "the policy's pods": policy.Spec.PodSelector.MatchLabels["app"],
		"the pods that may connect": from.From[0].PodSelector.MatchLabels["app"],
	} {
		if want := set.Spec.Template.Metadata.Labels["app"]; got != want || got == "" {
			t.Errorf("%s: app is %q, the pods' label is %q", what, got, want)
		}
	}
	if set.Spec.ServiceName != service.Metadata.Name || service.Spec.ClusterIP != "None" || !service.Spec.PublishNotReadyAddresses {
		t.Errorf("the service: %+v", service)
	}
	if service.Spec.Ports[0].Port != 4369 || app.Ports[0].ContainerPort != 4369 || from.Ports[0].Port != 4369 || from.Ports[0].Protocol != "TCP" || len(from.Ports) != 1 {
		t.Errorf("ports: %v %v %v", service.Spec.Ports, app.Ports, from.Ports)
	}
	testPod(t, app, service.Metadata.Name)
}

// testPod runs a node with the container's variables on host2 and pings it.
func testPod(t *testing.T, app container, service string) {
	var env []string
	known := environmentVariables(t)
	for _, e := range app.Env {
		if e.ValueFrom.FieldRef.FieldPath == "" {
			env = append(env, e.Name+"="+strings.NewReplacer("$(POD_NAME)."+service+".$(NAMESPACE).svc.cluster.local", "host2.handover.test").Replace(e.Value))
			if strings.Contains(env[len(env)-1], "$(") || strings.HasPrefix(e.Name, "HANDOVER_") && !slices.Contains(known, e.Name) {
				t.Fatalf("the variable %s cannot be resolved, or nothing reads it", env[len(env)-1])
			}
		}
	}
	name := regexp.MustCompile(`-name (\S+@\S+)`).FindStringSubmatch(strings.Join(env, " "))
	if name == nil {
		t.Fatalf("no name in %q", env)
	}
	h := newHosts(t)
	node := h.command(t, 2, "erl", "-noinput")
	node.Env = append(node.Env, env...)
	h.startBackground(t, node)
	testkit.WaitFor(t, "the probe", func() bool { _, err := h.run(t, 2, "", app.ReadinessProbe.Exec.Command...); return err == nil })
	h.checkPingFrom(t, "n1@host1.handover.test", name[1], "pong", handoverArgs()...)
	if out := h.mustRun(t, 2, "", "ss", "-Hltn", "sport != 4369"); out != "" {
		t.Errorf("ports other than 4369 are open: %s", out)
	}
}
