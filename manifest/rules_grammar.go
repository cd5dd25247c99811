package manifest

import "github.com/cmgr/cmgr/manifest/name"

// grammar checks every string of the declaration. The source language has checked them already; a stored form has not.
func (v *validator) grammar() {
	c := v.c
	check := func(err error, pos place) {
		if err != nil {
			v.report(pos, "grammar", "", "%v", err)
		}
	}
	if p := c.Program; p != nil && p.Runner != "" {
		check(name.Check(p.Runner), here(p.RunnerPos))
	}
	for i := range c.Children {
		k := &c.Children[i]
		check(name.Check(k.Name), here(k.Pos))
		check(name.CheckURL(k.URL), v.pos(SectionChildren, i, "url", k.Pos))
	}
	for i := range c.Collections {
		check(name.Check(c.Collections[i].Name), here(c.Collections[i].Pos))
	}
	for i := range c.Environments {
		e := &c.Environments[i]
		check(name.Check(e.Name), here(e.Pos))
		for _, rs := range [][]Registration{e.Runners, e.Resolvers, e.Debug} {
			for j := range rs {
				r := &rs[j]
				check(name.Check(r.Name), here(r.Pos))
				if r.Kind == KindResolver {
					check(name.CheckScheme(r.As), here(r.Pos))
				} else {
					check(name.Check(r.As), here(r.Pos))
				}
				check(checkRef(r.Source), here(r.Pos))
			}
		}
	}
	for i := range c.Capabilities {
		k := &c.Capabilities[i]
		check(name.Check(k.Name), here(k.Pos))
		check(optional(name.CheckPath, k.Path), v.pos(SectionCapabilities, i, "path", k.Pos))
		if s := k.Storage; s != nil {
			check(checkRef(s.Source), v.pos(SectionCapabilities, i, "from", k.Pos))
			check(optional(name.Check, s.BackingDir), v.pos(SectionCapabilities, i, "backing_dir", k.Pos))
			check(optional(name.CheckRelativePath, s.Subdir), v.pos(SectionCapabilities, i, "subdir", k.Pos))
		}
	}
	for i := range c.Uses {
		u := &c.Uses[i]
		check(name.Check(u.SourceName), here(u.Pos))
		check(checkRef(u.Source), v.pos(SectionUse, i, "from", u.Pos))
		check(optional(name.CheckPath, u.TargetPath), v.pos(SectionUse, i, "path", u.Pos))
		check(optional(name.CheckRelativePath, u.Subdir), v.pos(SectionUse, i, "subdir", u.Pos))
		for _, r := range u.Scope {
			check(checkRef(r), v.pos(SectionUse, i, "scope", u.Pos))
		}
		if u.Config != nil {
			check(name.CheckConfigKey(u.Config.Key), v.pos(SectionUse, i, "key", u.Pos))
		}
	}
	for i := range c.Offers {
		o := &c.Offers[i]
		check(name.Check(o.SourceName), here(o.Pos))
		check(name.Check(o.TargetName), v.pos(SectionOffer, i, "as", o.Pos))
		check(checkRef(o.Source), v.pos(SectionOffer, i, "from", o.Pos))
		check(checkRef(o.Target), v.pos(SectionOffer, i, "to", o.Pos))
		check(optional(name.CheckRelativePath, o.Subdir), v.pos(SectionOffer, i, "subdir", o.Pos))
	}
	for i := range c.Exposes {
		e := &c.Exposes[i]
		check(name.Check(e.SourceName), here(e.Pos))
		check(name.Check(e.TargetName), v.pos(SectionExpose, i, "as", e.Pos))
		check(checkRef(e.Source), v.pos(SectionExpose, i, "from", e.Pos))
		check(optional(name.CheckRelativePath, e.Subdir), v.pos(SectionExpose, i, "subdir", e.Pos))
	}
}

// optional checks s unless it is empty.
func optional(check func(string) error, s string) error {
	if s == "" {
		return nil
	}
	return check(s)
}

func checkRef(r Ref) error {
	if r.Kind == RefChild || r.Kind == RefCollection || r.Kind == RefCapability {
		if err := name.Check(r.Name); err != nil {
			return err
		}
	}
	return optional(name.CheckRelativePath, r.Dictionary)
}
