package kube

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	"github.com/seamark-lb/seamark/source"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// errNoAnswer: the request's own time is over.
var errNoAnswer = errors.New("no answer in time")

// cures of what an administrator may have left out.
const (
	cureCRDs      = "install them: kubectl apply -f deploy/manifests/seamark.yaml, or the Helm chart"
	cureNamespace = "create it: kubectl create namespace " + source.Namespace + ", or install the Helm chart"
	cureRBAC      = "grant it: kubectl apply -f deploy/manifests/rbac.yaml, or the Helm chart"
)

// classUnreachable is the class of errors of an API server that does not answer.
const classUnreachable = "unreachable"

// explained is an error in words that say what to mend. Errors of one class
// have one cure.
type explained struct {
	error
	class string
}

func (e explained) Unwrap() error { return e.error }

// explain puts an error of the API server, met at doing what to the kind, into
// words that say what to mend. All kinds meet an API server that cannot be
// reached in the same words.
func (c *clients) explain(what string, kind source.Kind, err error) error {
	switch {
	case err == nil:
		return nil
	case unreachable(err):
		return explained{fmt.Errorf("reach API server at %s: %w: is it up, and is %s right?", c.server, withoutURL(err), flagKubeconfig), classUnreachable}
	case apierrors.IsUnauthorized(err):
		return explained{fmt.Errorf("log in to API server at %s: %w: give a valid token or certificate (%s)", c.server, err, flagKubeconfig), "unauthorized"}
	case apierrors.IsForbidden(err):
		return explained{fmt.Errorf("%s %s: %w: %s", what, kind.Plural, err, cureRBAC), "forbidden"}
	case apierrors.IsNotFound(err) && missingKind(err) && kind.Group == v1alpha1.GroupVersion.Group:
		return explained{fmt.Errorf("%s %s: the API server does not know Seamark's kinds: %s", what, kind.Plural, cureCRDs), "missing"}
	}
	return fmt.Errorf("%s %s: %w", what, kind.Plural, err)
}

// classOf an error: its text when it is of none.
func classOf(err error) string {
	var e explained
	if errors.As(err, &e) {
		return e.class
	}
	return err.Error()
}

// unreachable says whether no answer came, or one of a server that is not ready.
func unreachable(err error) bool {
	var network net.Error
	var status apierrors.APIStatus
	return !errors.As(err, &status) && errors.As(err, &network) || errors.Is(err, errNoAnswer) ||
		apierrors.IsServiceUnavailable(err) || apierrors.IsTooManyRequests(err) || apierrors.IsServerTimeout(err)
}

// withoutURL drops "Get https://…:", and what else differs from request to request.
func withoutURL(err error) error {
	if errors.Is(err, errNoAnswer) {
		return errNoAnswer
	}
	var at *url.Error
	if errors.As(err, &at) {
		err = at.Err
	}
	var connection failed
	if errors.As(err, &connection) {
		err = connection.cause
	}
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	var call *os.SyscallError // read, write or connect, as it happens
	if errors.As(err, &call) {
		err = call.Err
	}
	return err
}

// missingKind says whether it is the kind that was not found, rather than one
// object of it.
func missingKind(err error) bool {
	var status apierrors.APIStatus
	return errors.As(err, &status) && (status.Status().Details == nil || status.Status().Details.Name == "")
}

// missingNamespace says whether a request failed for want of Seamark's namespace.
func missingNamespace(err error) bool {
	var status apierrors.APIStatus
	return apierrors.IsNotFound(err) && errors.As(err, &status) && status.Status().Details != nil &&
		status.Status().Details.Kind == "namespaces" && status.Status().Details.Name == source.Namespace
}

// causeOf is err, or why its request was ended.
func causeOf(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); err != nil && errors.Is(cause, errNoAnswer) {
		return cause
	}
	return err
}

// outages is what keeps the kinds from being followed.
type outages struct {
	mu   sync.Mutex
	errs map[string]error // by what fails
	// said are the classes that were told since all was well.
	said map[string]bool
	tell func(err error)
	over func()
}

func newOutages(tell func(error), over func()) *outages {
	return &outages{errs: map[string]error{}, said: map[string]bool{}, tell: tell, over: over}
}

// set records how it stands with what. Of each class of errors the first is
// told, once per outage.
func (o *outages) set(what string, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err == nil {
		delete(o.errs, what)
		if len(o.errs) == 0 && len(o.said) > 0 {
			clear(o.said)
			o.over()
		}
		return
	}
	o.errs[what] = err
	if !o.said[classOf(err)] {
		o.said[classOf(err)] = true
		o.tell(err)
	}
}

// err is all that is wrong, each text once, nil when nothing is.
func (o *outages) err() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	texts := map[string]bool{}
	for _, err := range o.errs {
		texts[err.Error()] = true
	}
	if len(texts) == 0 {
		return nil
	}
	return errors.New(strings.Join(slices.Sorted(maps.Keys(texts)), "; "))
}
