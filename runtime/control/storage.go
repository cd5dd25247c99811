package control

import (
	"context"

	"github.com/cmgr/cmgr/manifest/name"
	"github.com/cmgr/cmgr/proto/controlpb"
)

// Storage answers cmgr.control.v1.Control/Storage.
func (s *Server) Storage(ctx context.Context, req *controlpb.StorageRequest) (*controlpb.StorageResponse, error) {
	all, err := s.cfg.Tree.Storages(ctx)
	if err != nil {
		return nil, failed("storage", "", err)
	}
	var of name.Moniker
	if q := req.GetQuery(); q != "" {
		i, err := s.find(ctx, q)
		of = i.Moniker
		if err != nil {
			m, perr := name.ParseMoniker(q)
			if perr != nil || q[0] != '/' {
				return nil, failed("find", q, err)
			}
			of = m // of one that is not in the tree any more, perhaps
		}
		known := err == nil
		for _, x := range all {
			known = known || x.User == of
		}
		if !known {
			return nil, failed("find", q, err)
		}
	}
	out := &controlpb.StorageResponse{}
	for _, x := range all {
		if of != "" && x.User != of {
			continue
		}
		_, there := s.cfg.Tree.Instance(x.User)
		out.Stored = append(out.Stored, &controlpb.Stored{
			Moniker: string(x.User), Provider: string(x.Provider), Storage: x.Storage, InstanceId: x.ID,
			Directory: x.Directory, Orphan: !there,
		})
	}
	return out, nil
}

// DeleteStorage answers cmgr.control.v1.Control/DeleteStorage.
func (s *Server) DeleteStorage(ctx context.Context, req *controlpb.DeleteStorageRequest) (*controlpb.DeleteStorageResponse, error) {
	at, err := name.ParseMoniker(req.GetProvider())
	if err != nil {
		return nil, failed("delete storage", "", invalid("provider: %v", err))
	}
	of, err := name.ParseMoniker(req.GetMoniker())
	if err != nil {
		return nil, failed("delete storage", "", invalid("%v", err))
	}
	if err := s.cfg.Tree.DeleteStored(ctx, at, req.GetStorage(), of); err != nil {
		return nil, failed("delete storage", string(of), err)
	}
	return &controlpb.DeleteStorageResponse{}, nil
}
