//! The attribute `#[velo_core::test]`; use it through `velo-core`, which documents it.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Error, FnArg, ItemFn, LitStr, Path, Result, Type};

/// See `velo_core::test`.
#[proc_macro_attribute]
pub fn test(
    arguments: proc_macro::TokenStream,
    item: proc_macro::TokenStream,
) -> proc_macro::TokenStream {
    let mut given = Arguments::default();
    let parser = syn::meta::parser(|meta| given.take(&meta));
    syn::parse_macro_input!(arguments with parser);
    let function = syn::parse_macro_input!(item as ItemFn);
    expand(&given, &function).unwrap_or_else(Error::into_compile_error).into()
}

/// What stands in the attribute's parentheses.
#[derive(Default)]
struct Arguments {
    seed: Option<LitStr>,
    build: Option<Path>,
    project: Option<LitStr>,
}

impl Arguments {
    fn take(&mut self, meta: &syn::meta::ParseNestedMeta<'_>) -> Result<()> {
        let twice = if meta.path.is_ident("seed") {
            self.seed.replace(meta.value()?.parse()?).is_some()
        } else if meta.path.is_ident("build") {
            self.build.replace(meta.value()?.parse()?).is_some()
        } else if meta.path.is_ident("project") {
            self.project.replace(meta.value()?.parse()?).is_some()
        } else {
            return Err(meta.error("`velo_core::test` takes `seed`, `build` and `project`"));
        };
        if twice { Err(meta.error("this is given twice")) } else { Ok(()) }
    }
}

fn expand(given: &Arguments, function: &ItemFn) -> Result<TokenStream> {
    let types = types(function)?;
    let (attributes, visibility, signature) = (&function.attrs, &function.vis, &function.sig);
    let (name, output) = (&signature.ident, &signature.output);
    let inner = ItemFn { attrs: Vec::new(), vis: syn::Visibility::Inherited, ..function.clone() };
    let panics = attributes.iter().any(|attribute| attribute.path().is_ident("should_panic"));
    let (seed, project) = (option(given.seed.as_ref()), option(given.project.as_ref()));
    let build = option(given.build.as_ref().map(|path| {
        quote_spanned! {path.span()=> ::velo_core::__test::Build::new(::core::stringify!(#path), ::core::module_path!(), #path) }
    }));
    let label = name.to_string();
    // Names of their own: a test may be called the same.
    let (branch, case) =
        (Ident::new("branch", Span::mixed_site()), Ident::new("case", Span::mixed_site()));
    let told = quote! {
        ::velo_core::__test::Case {
            path: ::core::concat!(::core::module_path!(), "::", #label),
            package: ::core::env!("CARGO_PKG_NAME"),
            folder: ::core::env!("CARGO_MANIFEST_DIR"),
            project: #project,
            seed: #seed,
            build: #build,
            should_panic: #panics,
        }
    };
    let taken = types.iter().map(|ty| match signature.asyncness {
        Some(_) => quote_spanned! {ty.span()=> ::velo_core::__test::taken::<#ty>(&#branch).await },
        None => quote_spanned! {ty.span()=> ::velo_core::__test::made::<#ty>(&#branch) },
    });
    let run = match signature.asyncness {
        Some(_) => quote! { run(#case, async |#branch| #name(#(#taken),*).await) },
        None => quote! { run_blocking(#case, |#branch| #name(#(#taken),*)) },
    };
    Ok(quote! {
        #(#attributes)*
        #[::core::prelude::v1::test]
        #visibility fn #name() #output {
            #inner
            let #case = #told;
            ::velo_core::__test::#run
        }
    })
}

/// The types of what the test takes.
fn types(function: &ItemFn) -> Result<Vec<&Type>> {
    let signature = &function.sig;
    if !signature.generics.params.is_empty() {
        return Err(Error::new(signature.generics.span(), "a test cannot be generic"));
    }
    let types: Vec<&Type> = signature
        .inputs
        .iter()
        .map(|input| match input {
            FnArg::Typed(input) => Ok(&*input.ty),
            FnArg::Receiver(this) => Err(Error::new(this.span(), "a test is no method")),
        })
        .collect::<Result<_>>()?;
    if types.is_empty() {
        let what =
            "it takes nothing of a branch: add `branch: velo_core::Branch`, or use `#[test]`";
        return Err(Error::new(signature.ident.span(), what));
    }
    Ok(types)
}

fn option(value: Option<impl quote::ToTokens>) -> TokenStream {
    match value {
        Some(value) => quote! { ::core::option::Option::Some(#value) },
        None => quote! { ::core::option::Option::None },
    }
}
