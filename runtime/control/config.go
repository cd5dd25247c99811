package control

import (
	"context"

	"github.com/cmgr/cmgr/manifest"
	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/proto/controlpb"
	"github.com/cmgr/cmgr/runtime/realm"
)

// Config answers cmgr.control.v1.Control/Config.
func (s *Server) Config(ctx context.Context, req *controlpb.InstanceRequest) (*controlpb.ConfigResponse, error) {
	i, err := s.find(ctx, req.GetQuery())
	if err != nil {
		return nil, failed("find", req.GetQuery(), err)
	}
	values, err := s.cfg.Tree.Config(ctx, i.Moniker)
	if err != nil {
		return nil, failed("configure", string(i.Moniker), err)
	}
	return &controlpb.ConfigResponse{Moniker: string(i.Moniker), Values: configValues(values)}, nil
}

// SetConfig answers cmgr.control.v1.Control/SetConfig.
func (s *Server) SetConfig(ctx context.Context, req *controlpb.SetConfigRequest) (*controlpb.InstanceResponse, error) {
	return s.act(ctx, "configure", req.GetQuery(), func(ctx context.Context, m name.Moniker) error {
		return s.cfg.Tree.SetConfig(ctx, m, req.GetValues())
	})
}

// UnsetConfig answers cmgr.control.v1.Control/UnsetConfig.
func (s *Server) UnsetConfig(ctx context.Context, req *controlpb.UnsetConfigRequest) (*controlpb.InstanceResponse, error) {
	return s.act(ctx, "configure", req.GetQuery(), func(ctx context.Context, m name.Moniker) error {
		return s.cfg.Tree.UnsetConfig(ctx, m, req.GetKeys()...)
	})
}

func configValues(values []realm.ConfigValue) (out []*controlpb.ConfigValue) {
	for _, v := range values {
		w := &controlpb.ConfigValue{Key: v.Key, Type: v.Type.Kind.String(), Value: v.Text(), Source: v.Source.String()}
		if v.Type.Kind == manifest.ConfigVector {
			w.Type += " of " + v.Type.Element.Kind.String()
		}
		if v.Source == realm.SourceCapability {
			w.SourceMoniker = v.From
		}
		out = append(out, w)
	}
	return out
}
