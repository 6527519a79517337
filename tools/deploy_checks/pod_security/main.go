// pod_security reads rendered manifests from standard input and says which pods the API server would refuse: each is evaluated as
// Kubernetes itself does it, at the level that its namespace enforces (pod-security.kubernetes.io/enforce).
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	sigsyaml "sigs.k8s.io/yaml"
)

// What a StatefulSet, DaemonSet, Deployment, Job and Namespace have in common, as far as it matters here.
type object struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		Template *corev1.PodTemplateSpec `json:"template"`
	} `json:"spec"`
}

func readObjects(input io.Reader) ([]object, error) {
	var objects []object
	reader := yaml.NewYAMLReader(bufio.NewReader(input))
	for {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, err
		}
		var o object
		if err := sigsyaml.Unmarshal(document, &o); err != nil {
			return nil, err
		}
		objects = append(objects, o)
	}
}

// check prints what is refused and returns how many pods were looked at and how many were refused.
func check(objects []object, output io.Writer) (seen, refused int, err error) {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		return 0, 0, err
	}
	levels := map[string]api.LevelVersion{}
	for _, o := range objects {
		if o.Kind != "Namespace" {
			continue
		}
		level, err := api.ParseLevel(o.Labels[api.EnforceLevelLabel])
		if err != nil {
			return 0, 0, fmt.Errorf("namespace %s: %s: %w", o.Name, api.EnforceLevelLabel, err)
		}
		levels[o.Name] = api.LevelVersion{Level: level, Version: api.LatestVersion()}
	}
	for _, o := range objects {
		if o.Spec.Template == nil {
			continue
		}
		level, known := levels[o.Namespace]
		if !known {
			return 0, 0, fmt.Errorf("%s %s: namespace %q is not among the manifests", o.Kind, o.Name, o.Namespace)
		}
		seen++
		result := policy.AggregateCheckResults(evaluator.EvaluatePod(level, &o.Spec.Template.ObjectMeta, &o.Spec.Template.Spec))
		if !result.Allowed {
			refused++
			fmt.Fprintf(output, "%s %s: not %s: %s\n", o.Kind, o.Name, level.Level, result.ForbiddenDetail())
			continue
		}
		fmt.Fprintf(output, "%s %s: %s\n", o.Kind, o.Name, level.Level)
	}
	return seen, refused, nil
}

func main() {
	objects, err := readObjects(os.Stdin)
	if err != nil {
		fmt.Fprintln(os.Stderr, "pod_security:", err)
		os.Exit(2)
	}
	seen, refused, err := check(objects, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "pod_security:", err)
		os.Exit(2)
	}
	if seen == 0 {
		fmt.Fprintln(os.Stderr, "pod_security: no pods in the input")
		os.Exit(2)
	}
	if refused > 0 {
		os.Exit(1)
	}
}
