-- What somebody does with a manifest in neovim. Run by lsp_test.go: DIR has the manifests, CMGR is the program, OUT takes what is seen.
local dir, out = os.getenv("DIR"), {}
local function say(...) table.insert(out, table.concat(vim.tbl_map(tostring, { ... }), " ")) end
local function wait(what, f)
  if not vim.wait(60000, f, 5) then error("timeout: " .. what) end
end

local function main()
  vim.cmd("edit " .. dir .. "/root.cml")
  local buf = vim.api.nvim_get_current_buf()
  local id = vim.lsp.start_client({
    name = "cmgr", cmd = { os.getenv("CMGR"), "lsp" }, cmd_env = { CMGR_TEST_MAIN = "1" }, root_dir = dir,
  })
  vim.lsp.buf_attach_client(buf, id)
  local client = vim.lsp.get_client_by_id(id)
  wait("initialize", function() return client.initialized end)

  local function diagnostics(n)
    wait(n .. " diagnostics", function() return #vim.diagnostic.get(buf) == n end)
    for _, d in ipairs(vim.diagnostic.get(buf)) do
      say("diagnostic", d.lnum + 1, d.col + 1, d.code, vim.split(d.message, "\n")[1])
    end
  end
  -- The cursor goes to the first place of text.
  local function go(text)
    vim.api.nvim_win_set_cursor(0, { 1, 0 })
    if vim.fn.search([[\V]] .. text, "c") == 0 then error("no " .. text) end
  end
  local function ask(method, params)
    local r = vim.lsp.buf_request_sync(buf, method, params or vim.lsp.util.make_position_params(), 60000)
    if not r or not r[id] or r[id].err then error(method .. ": " .. vim.inspect(r)) end
    return r[id].result
  end

  diagnostics(1)
  go("{ name: \"b\"")
  local params = vim.lsp.util.make_range_params()
  params.context = { diagnostics = {}, only = { "source.fixAll" } }
  for _, action in ipairs(ask("textDocument/codeAction", params)) do
    say("action", action.title)
    vim.lsp.util.apply_workspace_edit(action.edit, client.offset_encoding)
  end
  diagnostics(0)

  -- Typing: a reference is begun, and completed.
  go("}, // here")
  vim.api.nvim_feedkeys("i, environment: \"#", "xt", false)
  diagnostics(2)
  vim.api.nvim_win_set_cursor(0, { vim.fn.line("."), vim.fn.col(".") }) -- behind what was typed
  local items = vim.lsp.util.text_document_completion_list_to_complete_items(ask("textDocument/completion"), "#")
  for _, item in ipairs(items) do say("completion", item.word, item.menu) end
  vim.api.nvim_feedkeys("ie\" ", "xt", false)
  diagnostics(0)

  -- A key is completed by its beginning, a child by the `#`.
  local function complete(at, text, base)
    go(at)
    vim.api.nvim_feedkeys("i" .. text, "xt", false)
    vim.api.nvim_win_set_cursor(0, { vim.fn.line("."), vim.fn.col(".") })
    for _, item in ipairs(vim.lsp.util.text_document_completion_list_to_complete_items(ask("textDocument/completion"), base)) do
      say("completion", item.word, item.menu)
    end
    vim.cmd("undo")
  end
  complete("}, // here", ", on", "on")
  complete("{ protocol: \"p\"", "{ protocol: \"q\", from: \"#", "#")
  diagnostics(0)

  go("startup")
  say("hover", vim.split(ask("textDocument/hover").contents.value, "\n")[1])

  go("#a\", to")
  vim.lsp.buf.definition()
  wait("definition", function() return vim.fn.line(".") == 5 end)
  say("definition", vim.fn.line("."), vim.fn.col("."), vim.fn.getline("."))
  vim.lsp.buf.rename("first")
  wait("rename", function() return vim.fn.search([[\V#first", to]], "n") > 0 end)
  go("a.cml")
  vim.lsp.buf.definition()
  wait("definition of a file", function() return vim.fn.expand("%:t") == "a.cml" end)
  say("definition", vim.fn.expand("%:t"))
  vim.cmd("buffer " .. buf)
  go("x.shard.cml")
  vim.lsp.buf.definition()
  wait("definition of an include", function() return vim.fn.expand("%:t") == "x.shard.cml" end)
  say("definition", vim.fn.expand("%:t"))
  vim.cmd("buffer " .. buf)

  if vim.lsp.buf.format then vim.lsp.buf.format({ timeout_ms = 60000 }) else vim.lsp.buf.formatting_sync(nil, 60000) end
  for _, line in ipairs(vim.api.nvim_buf_get_lines(buf, 0, -1, false)) do say("|" .. line) end
  client.stop()
  wait("the end of the server", function() return client.is_stopped() end)
end

local ok, err = pcall(main)
if not ok then say("ERROR", err) end
vim.fn.writefile(out, os.getenv("OUT"))
vim.cmd("qall!")
