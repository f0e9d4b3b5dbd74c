package kube

import (
	"context"

	"github.com/seamark-lb/seamark/source"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
)

// listWatch reads the objects of a kind.
type listWatch struct {
	list  func(context.Context, metav1.ListOptions) (runtime.Object, error)
	watch func(context.Context, metav1.ListOptions) (watch.Interface, error)
}

// client is the part of client-go's clients of one kind that reading needs.
type client[L runtime.Object] interface {
	List(context.Context, metav1.ListOptions) (L, error)
	Watch(context.Context, metav1.ListOptions) (watch.Interface, error)
}

func reading[L runtime.Object](c client[L]) listWatch {
	return listWatch{
		list: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return c.List(ctx, o) },
		watch: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return c.Watch(ctx, o)
		},
	}
}

// selecting reads only what has the labels.
func (lw listWatch) selecting(labels string) listWatch {
	return listWatch{
		list: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.LabelSelector = labels
			return lw.list(ctx, o)
		},
		watch: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.LabelSelector = labels
			return lw.watch(ctx, o)
		},
	}
}

// with reads only what has the fields.
func (lw listWatch) with(selector fields.Selector) listWatch {
	return listWatch{
		list: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = selector.String()
			return lw.list(ctx, o)
		},
		watch: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = selector.String()
			return lw.watch(ctx, o)
		},
	}
}

// reading of a kind: as protobuf into Go types where there are such, or else
// as unstructured objects.
func (c *clients) reading(k source.Kind) listWatch {
	switch k.Group + "/" + k.Kind {
	case "/Service":
		return reading[*corev1.ServiceList](c.core.CoreV1().Services(""))
	case "/Node":
		return reading[*corev1.NodeList](c.core.CoreV1().Nodes())
	case "/Namespace":
		return reading[*corev1.NamespaceList](c.core.CoreV1().Namespaces())
	case "discovery.k8s.io/EndpointSlice":
		return reading[*discoveryv1.EndpointSliceList](c.core.DiscoveryV1().EndpointSlices(""))
	case "coordination.k8s.io/Lease":
		// On the connection of the renewals, whose age this watch tells.
		return reading[*coordinationv1.LeaseList](c.urgent.CoordinationV1().Leases(source.Namespace))
	case source.KindAnnouncementSlice().Group + "/" + source.KindAnnouncementSlice().Kind:
		return reading(c.slices.Resource(resource(k)))
	case "apps/DaemonSet":
		return reading[*appsv1.DaemonSetList](c.core.AppsV1().DaemonSets(""))
	case "apps/Deployment":
		return reading[*appsv1.DeploymentList](c.core.AppsV1().Deployments(""))
	}
	return reading(c.dynamic.Resource(resource(k)))
}

// metadataOf reads the metadata of a kind's objects.
func (c *clients) metadataOf(k source.Kind) listWatch {
	r := c.metadata.Resource(resource(k))
	if k.Kind == source.KindLease().Kind {
		return reading(r.Namespace(source.Namespace))
	}
	return reading(r)
}

func resource(k source.Kind) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: k.Group, Version: k.Version, Resource: k.Plural}
}
