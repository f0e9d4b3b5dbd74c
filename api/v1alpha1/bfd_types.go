package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// BFDProfile holds the parameters of BFD sessions (RFC 5880), for BGPPeers to
// name.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,path=bfdprofiles,singular=bfdprofile
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Transmit Interval",type=integer,JSONPath=`.spec.transmitInterval`
// +kubebuilder:printcolumn:name="Receive Interval",type=integer,JSONPath=`.spec.receiveInterval`
// +kubebuilder:printcolumn:name="Multiplier",type=integer,JSONPath=`.spec.detectMultiplier`
// +kubebuilder:printcolumn:name="Passive Mode",type=boolean,JSONPath=`.spec.passiveMode`,priority=1
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="seamark.dev/Accepted")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type BFDProfile struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   BFDProfileSpec   `json:"spec"`
	Status BFDProfileStatus `json:"status,omitempty"`
}

// BFDProfileSpec is in force at once on the sessions there are. Sessions are
// asynchronous (RFC 5880 §3.2) and have no echo function.
type BFDProfileSpec struct {
	// ReceiveInterval is the Required Min RX Interval, in milliseconds: the
	// peer sends no more often than this.
	//
	// +optional
	// +kubebuilder:default=300
	// +kubebuilder:validation:Minimum=10
	// +kubebuilder:validation:Maximum=60000
	ReceiveInterval int32 `json:"receiveInterval,omitempty"`
	// TransmitInterval is the Desired Min TX Interval, in milliseconds.
	//
	// +optional
	// +kubebuilder:default=300
	// +kubebuilder:validation:Minimum=10
	// +kubebuilder:validation:Maximum=60000
	TransmitInterval int32 `json:"transmitInterval,omitempty"`
	// DetectMultiplier is how many packets in a row may be missing before the
	// session is down.
	//
	// +optional
	// +kubebuilder:default=3
	// +kubebuilder:validation:Minimum=2
	// +kubebuilder:validation:Maximum=255
	DetectMultiplier int32 `json:"detectMultiplier,omitempty"`
	// PassiveMode: send nothing before the peer has (RFC 5880 §6.1).
	//
	// +optional
	// +kubebuilder:default=false
	PassiveMode bool `json:"passiveMode,omitempty"`
	// MinimumTTL of packets of multihop sessions (RFC 5883): those that come
	// with less are dropped. Single-hop sessions take 255 alone (RFC 5881 §5).
	//
	// +optional
	// +kubebuilder:default=254
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=254
	MinimumTTL int32 `json:"minimumTTL,omitempty"`
}

// BFDProfileStatus says whether the profile is in force.
type BFDProfileStatus struct {
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// BFDProfileList is a list of BFDProfiles.
//
// +kubebuilder:object:root=true
type BFDProfileList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []BFDProfile `json:"items"`
}
